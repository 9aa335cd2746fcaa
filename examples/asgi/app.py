"""A web application behind Mangum. This one uses Starlette; FastAPI works the same way.

The pool's decorator goes around the adapter. So every request has the invocation's deadline, and anything that a route
left behind is cleaned up before Lambda freezes the environment. Each route borrows for itself. So an error that the
framework turns into an answer has already left the block, and rolled it back.
"""

from mangum import Mangum
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route

import lambda_pool

orders = lambda_pool.Pool()


def get_order(request):  # a plain function: Starlette calls it in a thread, where the driver may wait
    with orders.connection() as conn:
        row = conn.execute(
            "select number, article, amount from orders where number = %s", [request.path_params["number"]]
        ).fetchone()
    if row is None:
        raise HTTPException(404)
    return JSONResponse(dict(zip(("number", "article", "amount"), row, strict=True)))


def post_order(request):
    article = request.path_params["article"]
    with orders.connection() as conn:
        number = conn.execute("insert into orders (article) values (%s) returning number", [article]).fetchone()[0]
        left = conn.execute(
            "update stock set left_over = left_over - 1 where article = %s returning left_over", [article]
        ).fetchone()
        if left is None or left[0] < 0:
            raise HTTPException(409, f"there is no {article} left")  # this leaves the block: nothing is saved
    return JSONResponse({"number": number}, 201)


app = Starlette(
    routes=[
        Route("/orders/{number:int}", get_order),
        Route("/orders/of/{article}", post_order, methods=["POST"]),
    ]
)
handler = orders.handler(Mangum(app, lifespan="off"))
