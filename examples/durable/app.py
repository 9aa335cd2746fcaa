"""A durable function: an order that is saved, waits for a day, and is then settled.

`orders.handler` is outermost and takes no connection. Each step is one transaction, together with its record. If
the function is lost between COMMIT and the SDK's checkpoint, the step runs again, finds the record and does nothing.
"""

from aws_durable_execution_sdk_python import durable_execution
from aws_durable_execution_sdk_python.config import Duration

import lambda_pool

orders = lambda_pool.Pool()


@orders.handler
@durable_execution
def handler(event, context):
    orders.step(context, "save", lambda conn: save(conn, event["id"], event["article"]))
    context.wait(Duration.from_days(1), name="a day")
    return orders.step(context, "settle", lambda conn: settle(conn, event["id"]))


def save(conn, order, article):
    conn.execute("insert into orders (message, article) values (%s, %s)", [order, article])


def settle(conn, order):
    conn.execute("update orders set settled = true where message = %s", [order])
    return order
