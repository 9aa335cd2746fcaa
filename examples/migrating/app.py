"""After: the connection comes as an argument. The function no longer connects, commits or cleans up."""

import lambda_pool


@lambda_pool.handler
def handler(event, context, conn):
    with conn.cursor() as cursor:
        cursor.execute("insert into orders (article) values (%s) returning number", [event["article"]])
        [number] = cursor.fetchone()
    if event.get("fail"):
        raise RuntimeError("half way")
    return number
