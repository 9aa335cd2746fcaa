"""Three questions at once, on three connections, in an `async def` handler.

Lambda's runtime calls a plain function. The pool's decorator makes one, which runs this handler on one event loop for
the whole environment. With `max_size=3` an environment may open three connections. It opens as many as are used at the
same time.
"""

import asyncio

import lambda_pool

orders = lambda_pool.AsyncPool(max_size=3)

QUESTIONS = {
    "orders": "select count(*) from orders where article = %s",
    "amount": "select coalesce(sum(amount), 0) from orders where article = %s",
    "left_over": "select coalesce(sum(left_over), 0) from stock where article = %s",
}


async def ask(question, article):
    async with orders.connection(readonly=True) as conn:
        cursor = await conn.execute(question, [article])
        return (await cursor.fetchone())[0]


@orders.handler
async def handler(event, context):
    async with asyncio.TaskGroup() as tasks:
        asked = {name: tasks.create_task(ask(question, event["article"])) for name, question in QUESTIONS.items()}
    return {name: int(task.result()) for name, task in asked.items()}
