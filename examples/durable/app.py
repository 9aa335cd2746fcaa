"""A durable function: an order that is saved, waits for a day, and is then settled.

`orders.handler` is outermost and takes no connection; each step borrows for itself, and has committed when it ends. A
step runs at least once: if the function is lost between COMMIT and the SDK's checkpoint, the step runs again. So the
execution's own id makes its insert harmless the second time.
"""

from aws_durable_execution_sdk_python import durable_execution
from aws_durable_execution_sdk_python.config import Duration

import lambda_pool

orders = lambda_pool.Pool()


@orders.handler
@durable_execution
def handler(event, context):
    context.step(lambda _: save(event["id"], event["article"]), name="save")
    context.wait(Duration.from_days(1), name="a day")
    return context.step(lambda _: settle(event["id"]), name="settle")


def save(order, article):
    with orders.connection() as conn:
        conn.execute(
            "insert into orders (message, article) values (%s, %s) on conflict (message) do nothing", [order, article]
        )


def settle(order):
    with orders.connection() as conn:
        conn.execute("update orders set settled = true where message = %s", [order])
    return order
