"""A web application that answers many requests at once: on uvicorn in a Web Function, or behind Mangum.

The middleware goes around the application. Each request has a deadline, anything that a route left behind is cleaned
up, and if no connection can be had, the client gets a 503. Eight connections serve all requests; the others wait in a
queue.
"""

from fastapi import FastAPI, HTTPException
from mangum import Mangum

import lambda_pool
from lambda_pool import asgi

orders = lambda_pool.AsyncPool(max_size=8)
app = FastAPI()


@app.get("/orders/{number}")
async def get_order(number: int):
    async with orders.connection() as conn:
        cursor = await conn.execute("select number, article, amount from orders where number = %s", [number])
        row = await cursor.fetchone()
    if row is None:
        raise HTTPException(404)
    return dict(zip(("number", "article", "amount"), row, strict=True))


@app.post("/orders/{article}", status_code=201)
async def post_order(article: str, amount: int = 1):
    async with orders.connection() as conn:
        cursor = await conn.execute(
            "insert into orders (article, amount) values (%s, %s) returning number", [article, amount]
        )
        (number,) = await cursor.fetchone()
        if amount > 100:
            raise HTTPException(409, "too many")  # this leaves the block: nothing is saved
    return {"number": number}


application = asgi.Middleware(app, orders, request_timeout=10)  # uvicorn serves this
handler = orders.handler(Mangum(application, lifespan="off"))
