"""Orders, with a connection opened in each invocation."""

import os

import psycopg


def handler(event, context):
    with psycopg.connect(os.environ["DATABASE_URL"]) as conn:
        order = conn.execute(
            "insert into orders (item, quantity) values (%(item)s, %(quantity)s) returning id", event
        ).fetchone()
        conn.execute("update stock set on_hand = on_hand - %(quantity)s where item = %(item)s", event)
        if event["card"] == "declined":
            raise ValueError("card declined")
        return {"order": order[0]}
