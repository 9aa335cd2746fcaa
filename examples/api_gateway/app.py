"""A REST API behind API Gateway, with the event handler of Powertools for AWS Lambda.

Each route borrows the connection for exactly as long as it needs it. Any error that a route raises rolls back, even an
error that Powertools turns into an answer. A client that tries again makes a second order, unless it sends the same key
with both requests (`Idempotency-Key`, a UUID for each order), which is kept in a unique column.
"""

from aws_lambda_powertools.event_handler import APIGatewayRestResolver
from aws_lambda_powertools.event_handler.exceptions import BadRequestError, NotFoundError

import lambda_pool

app = APIGatewayRestResolver()
orders = lambda_pool.Pool()

# The most that PostgreSQL's integer holds. For more, the driver's error would be a 502 for a mistake of the client.
MOST = 2**31 - 1


@app.get("/orders/<number>")
def get_order(number: str):
    # The length is checked first: Python refuses to read a number with thousands of digits.
    if not number.isdecimal() or len(number) > 10 or int(number) > MOST:
        raise NotFoundError(f"there is no order {number}")
    with orders.connection() as conn:
        row = conn.execute("select number, article, amount from orders where number = %s", [int(number)]).fetchone()
    if row is None:
        raise NotFoundError(f"there is no order {number}")
    return dict(zip(("number", "article", "amount"), row, strict=True))


@app.post("/orders")
def post_order():
    article, amount = read_order()
    key = app.current_event.headers.get("Idempotency-Key") or None
    with orders.connection() as conn:
        made = conn.execute(
            "insert into orders (message, article, amount) values (%s, %s, %s)"
            " on conflict (message) do nothing returning number",
            [key, article, amount],
        ).fetchone()
        if made is None:
            # The first try was saved, and only its answer was lost.
            return {"number": conn.execute("select number from orders where message = %s", [key]).fetchone()[0]}
        left = conn.execute(
            "update stock set left_over = left_over - %s where article = %s returning left_over", [amount, article]
        ).fetchone()
        # Both statements are undone, because these leave the block.
        if left is None:
            raise NotFoundError(f"there is no article {article}")
        if left[0] < 0:
            raise BadRequestError(f"there are not {amount} of {article} left")
    return {"number": made[0]}, 201


def read_order():
    try:
        order = app.current_event.json_body
        article, amount = order["article"], order["amount"]
    except (TypeError, KeyError, ValueError):
        raise BadRequestError('send {"article": "…", "amount": 1}') from None
    # JSON can hold text that a database refuses, such as NUL. And JSON's `true` is an int to Python.
    if not isinstance(article, str) or not article.isprintable():
        raise BadRequestError("the article must be its name")
    if type(amount) is not int or not 1 <= amount <= MOST:
        raise BadRequestError(f"the amount must be a whole number from 1 to {MOST}")
    return article, amount


@orders.handler
def handler(event, context):
    return app.resolve(event, context)
