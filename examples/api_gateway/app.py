"""A REST API behind API Gateway, with the event handler of Powertools for AWS Lambda.

Each route borrows the connection for exactly as long as it needs it. What a route raises rolls back: also the errors
that Powertools turns into answers.
"""

from aws_lambda_powertools.event_handler import APIGatewayRestResolver
from aws_lambda_powertools.event_handler.exceptions import BadRequestError, NotFoundError

import lambda_pool

app = APIGatewayRestResolver()
orders = lambda_pool.Pool()


@app.get("/orders/<number>")
def get_order(number: str):
    with orders.connection() as conn:
        row = conn.execute("select number, article, amount from orders where number = %s", [number]).fetchone()
    if row is None:
        raise NotFoundError(f"there is no order {number}")
    return dict(zip(("number", "article", "amount"), row, strict=True))


@app.post("/orders")
def post_order():
    order = app.current_event.json_body
    with orders.connection() as conn:
        cursor = conn.execute(
            "insert into orders (article, amount) values (%s, %s) returning number", [order["article"], order["amount"]]
        )
        [number] = cursor.fetchone()
        conn.execute(
            "update stock set left_over = left_over - %s where article = %s", [order["amount"], order["article"]]
        )
        [left_over] = conn.execute("select left_over from stock where article = %s", [order["article"]]).fetchone()
        if left_over < 0:
            # Both statements are undone, because this leaves the block.
            raise BadRequestError(f"there are not {order['amount']} of {order['article']} left")
    return {"number": number}, 201


@orders.handler
def handler(event, context):
    return app.resolve(event, context)
