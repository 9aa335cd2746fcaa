"""An SQS queue's batch: one transaction for each record, and only those that failed come back.

The event source mapping needs `FunctionResponseTypes: [ReportBatchItemFailures]`. SQS may deliver a record twice, and
a commit whose answer was lost may have happened: so each record's own id makes its insert harmless the second time.
For a standard queue: in a FIFO queue nothing may be handled after a record of its group that failed.
"""

import json
import logging

import lambda_pool

log = logging.getLogger()
orders = lambda_pool.Pool()

# No connection is to be had: the records that are left would only wait for the same answer.
DOWN = (
    lambda_pool.ConnectError,
    lambda_pool.CredentialsError,
    lambda_pool.DeadlineExceeded,
    lambda_pool.EndpointError,
    lambda_pool.PoolTimeout,
)


@orders.handler
def handler(event, context):
    records = event["Records"]
    failed = []
    for position, record in enumerate(records):
        try:
            with orders.connection() as conn:
                save(conn, record["messageId"], json.loads(record["body"]))
        except DOWN:
            log.exception("no connection: %d of %d records go back", len(records) - position, len(records))
            failed += [left["messageId"] for left in records[position:]]
            break
        except Exception:
            log.exception("record %s goes back", record["messageId"])
            failed.append(record["messageId"])
    return {"batchItemFailures": [{"itemIdentifier": message} for message in failed]}


def save(conn, message, order):
    conn.execute(
        "insert into orders (message, article, amount) values (%s, %s, %s) on conflict (message) do nothing",
        [message, order["article"], order["amount"]],
    )
