"""Orders, with a connection kept in a global and opened again when the driver says that it is closed."""

import os

import pymysql

conn = None


def get_connection():
    global conn
    if conn is None or not conn.open:
        conn = pymysql.connect(
            host=os.environ["DB_HOST"],
            port=int(os.environ["DB_PORT"]),
            user=os.environ["DB_USER"],
            password=os.environ["DB_PASSWORD"],
            database=os.environ["DB_NAME"],
            ssl={"ca": os.environ["DB_CA"]},
        )
    return conn


def handler(event, context):
    conn = get_connection()
    with conn.cursor() as cursor:
        cursor.execute("insert into orders (item, quantity) values (%(item)s, %(quantity)s)", event)
        order = cursor.lastrowid
        cursor.execute("update stock set on_hand = on_hand - %(quantity)s where item = %(item)s", event)
    if event["card"] == "declined":
        raise ValueError("card declined")
    conn.commit()
    return {"order": order}
