"""Orders, with a connection kept in a global and opened again when the driver says that it is closed."""

import os

import psycopg

conn = None


def get_connection():
    global conn
    if conn is None or conn.closed:
        conn = psycopg.connect(os.environ["DATABASE_URL"])
    return conn


def handler(event, context):
    conn = get_connection()
    order = conn.execute(
        "insert into orders (item, quantity) values (%(item)s, %(quantity)s) returning id", event
    ).fetchone()
    conn.execute("update stock set on_hand = on_hand - %(quantity)s where item = %(item)s", event)
    if event["card"] == "declined":
        raise ValueError("card declined")
    conn.commit()
    return {"order": order[0]}
