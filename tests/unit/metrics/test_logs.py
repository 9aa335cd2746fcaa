"""One line for what happened, nothing for what did not; and as JSON where Powertools' Logger writes."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from aws_lambda_powertools import Logger
from aws_lambda_powertools.logging import utils

from lambda_pool.engines.base import Failure
from lambda_pool.testing import FakeDriver, FakeError


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> Iterator[Any]:
    """What Powertools' Logger wrote for us, as a list of dictionaries made anew by each call."""
    stream = io.StringIO()
    ours = logging.getLogger("lambda_pool")
    before = (ours.handlers[:], ours.level, ours.propagate)
    pool = FakeDriver().pool()  # so that the logger exists; held, or the next one would be one that is made again
    # Powertools keeps loggers by service: a name that comes twice would get the first one's stream.
    source = Logger(service=request.node.name, level="INFO", stream=stream)
    utils.copy_config_to_registered_loggers(source_logger=source, include={"lambda_pool"})
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    ours.handlers[:], ours.level, ours.propagate = before
    pool.close()


def test_a_replaced_connection_is_one_line_and_warm_ones_are_none(lines: Any) -> None:
    driver = FakeDriver()
    pool = driver.pool()
    handler = pool.handler(lambda event, context, conn: None)
    for _ in range(3):
        handler({}, None)
    before = len(lines())
    driver.links[-1].kill()
    for _ in range(3):
        handler({}, None)
    (line,) = lines()[before:]
    assert line["message"].startswith("pool fake: connection replaced: dead, age 0.0 s, idle 0.0 s")
    assert line["level"] == "INFO"
    assert (line["pool"], line["reason"]) == ("fake", "dead")
    assert 0 <= line["idle"] <= line["age"] < 10
    assert line["backend_id"] == 0


def test_failed_attempts_say_their_class(lines: Any) -> None:
    driver = FakeDriver()
    driver.fail("connect", FakeError(Failure.TOO_MANY), None)
    before = len(lines())
    with driver.pool().connection():
        pass
    (line,) = lines()[before:]
    assert (line["level"], line["error_class"], line["attempt"]) == ("INFO", "too_many", 1)
