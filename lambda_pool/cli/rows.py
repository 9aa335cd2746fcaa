"""Rows as text: psycopg gives bytes where the database's encoding is SQL_ASCII."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def as_text(row: Sequence[Any]) -> tuple[Any, ...]:
    """The row, with its bytes decoded to texts."""
    return tuple(value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in row)
