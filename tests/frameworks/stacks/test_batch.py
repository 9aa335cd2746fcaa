"""Powertools' batch processor: a block for each record, so that a record that fails does not undo the others."""

import json
from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

import lambda_pool
from tests.support.context import LambdaContext

from .conftest import Server, kept


def batch(*bodies: object) -> dict[str, Any]:
    """An event of SQS."""
    return {
        "Records": [
            {"messageId": f"message-{number}", "body": json.dumps(body), "eventSource": "aws:sqs", "attributes": {}}
            for number, body in enumerate(bodies)
        ]
    }


def failures(answer: Any) -> list[str]:
    return [each["itemIdentifier"] for each in answer["batchItemFailures"]]


def test_a_block_for_each_record(pool: lambda_pool.Pool, server: Server) -> None:
    def save(record: SQSRecord) -> None:
        with pool.connection() as conn:
            conn.cursor().execute("insert into kept values (%s)", [record.json_body["id"]])
            if record.json_body.get("fail"):
                raise ValueError("no")

    @pool.handler
    def handler(event: Any, context: Any) -> Any:
        processor = BatchProcessor(event_type=EventType.SQS)
        return process_partial_response(event=event, record_handler=save, processor=processor, context=context)

    answer = handler(batch({"id": 1}, {"id": 2, "fail": True}, {"id": 3}, {"id": 1}), LambdaContext())
    assert failures(answer) == ["message-1", "message-3"]
    assert kept(server) == [1, 3]


def test_one_connection_for_the_batch_saves_what_came_back_as_failed(pool: lambda_pool.Pool, server: Server) -> None:
    """What docs/powertools.md warns of."""

    @pool.handler
    def handler(event: Any, context: Any, conn: Any) -> Any:
        def save(record: SQSRecord) -> None:
            conn.cursor().execute("insert into kept values (%s)", [record.json_body["id"]])
            if record.json_body.get("fail"):
                raise ValueError("no")

        processor = BatchProcessor(event_type=EventType.SQS)
        return process_partial_response(event=event, record_handler=save, processor=processor, context=context)

    assert failures(handler(batch({"id": 1}, {"id": 2, "fail": True}), LambdaContext())) == ["message-1"]
    assert kept(server) == [1, 2]
