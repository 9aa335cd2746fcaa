"""A function that must answer when the database is down: with the last value that it knew, or with an honest 503.

`timeout` limits how long a caller waits for the database. `on_unavailable` is called instead of the handler if there is
no connection within that time. An error inside the handler is still raised.
"""

import json

import lambda_pool

prices = lambda_pool.Pool(timeout=1.0, connect_timeout=0.5)
known = {}


def answer(status, body, **headers):
    headers["Content-Type"] = "application/json"
    return {"statusCode": status, "headers": headers, "body": json.dumps(body, default=str)}  # JSON has no numeric


def stale(event, context, error):
    article = event["pathParameters"]["article"]
    if article in known:
        return answer(200, {"price": known[article]}, Warning='110 - "Response is Stale"')
    return answer(503, {"message": "prices are not available now"}, **{"Retry-After": "5"})


@prices.handler(on_unavailable=stale)
def handler(event, context, conn):
    article = event["pathParameters"]["article"]
    row = conn.execute("select price from prices where article = %s", [article]).fetchone()
    if row is None:
        return answer(404, {"message": f"there is no article {article}"})
    known[article] = row[0]
    return answer(200, {"price": row[0]})
