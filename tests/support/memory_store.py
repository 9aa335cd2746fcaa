"""A store for Powertools' idempotency that keeps its records in memory, in the way that DynamoDB keeps them."""

from collections.abc import Callable
from typing import Any

from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyItemAlreadyExistsError,
    IdempotencyItemNotFoundError,
)
from aws_lambda_powertools.utilities.idempotency.persistence.base import BasePersistenceLayer
from aws_lambda_powertools.utilities.idempotency.persistence.datarecord import DataRecord


class MemoryStore(BasePersistenceLayer):
    """`on_completed` is called when a record becomes COMPLETED."""

    def __init__(self, on_completed: Callable[[], Any] = lambda: None) -> None:
        super().__init__()
        self.records: dict[str, DataRecord] = {}
        self.on_completed = on_completed

    def _get_record(self, idempotency_key: str) -> DataRecord:
        if idempotency_key not in self.records:
            raise IdempotencyItemNotFoundError
        return self.records[idempotency_key]

    def _put_record(self, data_record: DataRecord) -> None:
        key = data_record.idempotency_key
        if key in self.records:
            raise IdempotencyItemAlreadyExistsError(old_data_record=self.records[key])
        self.records[key] = data_record

    def _update_record(self, data_record: DataRecord) -> None:
        self.on_completed()
        self.records[data_record.idempotency_key] = data_record

    def _delete_record(self, data_record: DataRecord) -> None:
        self.records.pop(data_record.idempotency_key, None)
