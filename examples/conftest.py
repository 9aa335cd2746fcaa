"""Shared by the examples' tests, on top of lambda_pool's fixtures: copy it together with the folder that you take.

`database` is a fresh PostgreSQL database with the tables of the folder's schema.sql; `start(handler)` starts the
folder's function on the genuine runtime, connected to it; `call(event)` invokes `app.handler`.
"""

from pathlib import Path

import psycopg
import pytest


class Database:
    """One database of a server, for one test."""

    def __init__(self, server, name):
        self.server = server
        self.url = server.url(database=name)

    def execute(self, sql):
        """Run SQL, committed at once. Returns the rows, if there are any."""
        with psycopg.connect(self.url, autocommit=True) as conn:
            cursor = conn.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def end_sessions(self):
        """End every session of the server, as a failover does."""
        self.server.end_sessions()


@pytest.fixture
def folder(request):
    """The example's folder."""
    return Path(request.path).parents[1]


@pytest.fixture
def database(request, postgres_server, folder):
    """A fresh database with the folder's tables."""
    name = request.node.name.replace("[", "_").rstrip("]")
    postgres_server.execute(f'create database "{name}"')
    made = Database(postgres_server, name)
    schema = folder / "schema.sql"
    if schema.exists():
        made.execute(schema.read_text())
    yield made
    postgres_server.execute(f'drop database "{name}" with (force)')


@pytest.fixture
def start(lambda_runtime, database, folder):
    """start(handler, **variables): an environment with one of the folder's functions."""

    def begin(handler="app.handler", **variables):
        environment = {"LAMBDA_POOL_URL": database.url, "PYTHONDONTWRITEBYTECODE": "1", **variables}
        return lambda_runtime(handler, code_dir=folder, env=environment)

    return begin


@pytest.fixture
def call(start):
    """call(event): what `app.handler` answers; an error is raised as AssertionError."""
    runtime = start()

    def invoke(event=None):
        answer = runtime.invoke(event or {})
        assert answer.error is None, answer.error
        return answer.payload

    invoke.runtime = runtime
    return invoke
