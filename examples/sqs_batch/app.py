"""An SQS queue's batch with Powertools' batch processor: a block for each record, and only those that failed come back.

The decorated handler takes no connection. With one connection for the whole batch there would be one transaction. It
would commit at the end, together with everything that failed records had written before they failed. So each record
borrows for itself. An error in its function rolls its block back, and the processor then reports the record as failed.
The event source mapping needs `FunctionResponseTypes: [ReportBatchItemFailures]`.
"""

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response

import lambda_pool

orders = lambda_pool.Pool()
processor = BatchProcessor(event_type=EventType.SQS)


def save(record):
    order = record.json_body
    with orders.connection() as conn:
        # SQS may deliver a record twice. Its own id makes the second insert harmless, so that nothing is taken twice.
        new = conn.execute(
            "insert into orders (message, article, amount) values (%s, %s, %s) on conflict (message) do nothing",
            [record.message_id, order["article"], order["amount"]],
        ).rowcount
        if new:
            conn.execute(
                "update stock set left_over = left_over - %s where article = %s", [order["amount"], order["article"]]
            )


@orders.handler
def handler(event, context):
    # Without a database the whole batch goes back at once, instead of after a wait for each record.
    with orders.connection():
        pass
    return process_partial_response(event=event, record_handler=save, processor=processor, context=context)
