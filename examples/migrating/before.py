"""Before: a connection in a global, with the care that is usually taken of it."""

import os

import psycopg

conn = None


def handler(event, context):
    global conn
    if conn is None or conn.closed:
        conn = psycopg.connect(os.environ["LAMBDA_POOL_URL"], connect_timeout=3)
    try:
        with conn.cursor() as cursor:
            cursor.execute("insert into orders (article) values (%s) returning number", [event["article"]])
            [number] = cursor.fetchone()
        if event.get("fail"):
            raise RuntimeError("half way")
        conn.commit()
    except psycopg.Error:
        conn.rollback()
        raise
    return number
