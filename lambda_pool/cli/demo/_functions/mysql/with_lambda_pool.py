"""Orders, with lambda_pool."""

import lambda_pool


@lambda_pool.handler
def handler(event, context, conn):
    with conn.cursor() as cursor:
        cursor.execute("insert into orders (item, quantity) values (%(item)s, %(quantity)s)", event)
        order = cursor.lastrowid
        cursor.execute("update stock set on_hand = on_hand - %(quantity)s where item = %(item)s", event)
    if event["card"] == "declined":
        raise ValueError("card declined")
    return {"order": order}
