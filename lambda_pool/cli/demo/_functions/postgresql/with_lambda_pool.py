"""Orders, with lambda_pool."""

import lambda_pool


@lambda_pool.handler
def handler(event, context, conn):
    order = conn.execute(
        "insert into orders (item, quantity) values (%(item)s, %(quantity)s) returning id", event
    ).fetchone()
    conn.execute("update stock set on_hand = on_hand - %(quantity)s where item = %(item)s", event)
    if event["card"] == "declined":
        raise ValueError("card declined")
    return {"order": order[0]}
