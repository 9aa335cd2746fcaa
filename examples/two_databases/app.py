"""Two databases, one of each engine, each with a pool of its own: ORDERS_URL and REPORTS_URL.

The decorators can be stacked. Each commits or rolls back its own database, one after the other: this is not one
transaction over both. The inner one ends first, so work that must not be lost belongs in it.
"""

import lambda_pool

orders = lambda_pool.Pool.from_env("ORDERS_")
reports = lambda_pool.Pool.from_env("REPORTS_")


@reports.handler(inject="reports_db")
@orders.handler(inject="orders_db")
def handler(event, context, orders_db, reports_db):
    with orders_db.cursor() as cursor:
        cursor.execute("insert into orders (article) values (%s) returning number", [event["article"]])
        [number] = cursor.fetchone()
    with reports_db.cursor() as cursor:
        cursor.execute("insert into sales (article, number) values (%s, %s)", [event["article"], number])
    if event.get("fail"):
        raise RuntimeError("half way")
    return number
