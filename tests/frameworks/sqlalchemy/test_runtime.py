"""A SQLAlchemy function on the genuine runtime: one backend, nothing extra, and no error but the handler's own."""

from typing import Any

import pytest

from tests.on_lambda.conftest import Start, start  # noqa: F401 - a fixture
from tests.support.long_day import live_through, server  # noqa: F401 - a fixture

pytestmark = pytest.mark.runtime

FUNCTION = """
import os, time
import lambda_pool
from lambda_pool.sqlalchemy import create_engine, handler as with_session
from sqlalchemy import text

POOL = lambda_pool.Pool(os.environ["URL"], **eval(os.environ.get("OPTIONS", "{}")))
ENGINE = create_engine(POOL)

@with_session(ENGINE)
def handler(event, context, session):
    event = event or {}
    driver = session.connection().connection.driver_connection
    backend = driver.info.backend_pid if hasattr(driver, "info") else driver.thread_id()
    if event.get("insert"):
        session.execute(text("insert into long_day values (:id)"), {"id": event["insert"]})
    rows = [list(row) for row in session.execute(text(event.get("sql", "select id from long_day where id = 0")))]
    if event.get("fail"):
        raise RuntimeError("half way")
    return {"rows": rows, "backend": backend, "stats": {n: getattr(POOL.stats(), n) for n in POOL.stats().__slots__}}
"""


@pytest.mark.sampled(1 / 2, "200 invocations, faults and restarts")
def test_a_long_day(start: Start, server: Any, any_python: str) -> None:  # noqa: F811
    live_through(start, server, FUNCTION, any_python)
