"""`Pool.step`: a durable function's step that happens once, because its work and its record are one transaction.

The SDK records a step when it has returned, so a step that is interrupted between its COMMIT and that record runs
again. Here a row records the same, and is committed with the work. A run that finds the row returns the stored result,
and does nothing else.
"""

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from inspect import isawaitable
from time import monotonic
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from . import lifecycle, replay
from .errors import CommitUncertain, ConfigError, LambdaPoolError, NotCommitted
from .pool import ConnectionPool
from .pooled_context import PooledContext
from .record import Record
from .request import Request, asking

log: logging.Logger = logging.getLogger("lambda_pool")

_ATTEMPTS = 3
_DAYS = 366
"""Age at which a row is deleted: no durable execution lives longer, so none can still ask for it."""
_AT_ONCE = 1000  # rows that one environment deletes
_TABLE = "lambda_pool_steps"
# Which names Lambda accepts for a step, and how many bytes of result:
# https://docs.aws.amazon.com/lambda/latest/api/API_OperationUpdate.html
_NAME = re.compile(r"[\x20-\x7e]{1,256}")
_LARGEST = 6 << 20


class _Statements(Record):
    """The statements for one kind of server, and its error codes for a `missing` table and a `forbidden` action.

    `place` is the schema or database that the table is in, as SQL. `old` finds rows that may be deleted. It waits for
    no lock, because a running step holds one on its row to the end.
    """

    create: str
    claim: str
    place: str
    old: str
    missing: tuple[object, ...]
    forbidden: tuple[object, ...]
    find: str = f"select result from {_TABLE} where step = %s"  # noqa: S608 - of constants alone


_STATEMENTS = {
    "postgresql": _Statements(
        create=f"create table if not exists {_TABLE} (step char(64) primary key, execution text not null, "
        # The index by age is a constraint, so that all of this is one statement, which may be a prepared one, too.
        "name text not null, result text, done timestamptz not null default now(), unique (done, step))",
        claim=f"insert into {_TABLE} (step, execution, name) values (%s, %s, %s) on conflict (step) do nothing",  # noqa: S608
        place="select pg_catalog.quote_ident(n.nspname) from pg_catalog.pg_class c join pg_catalog.pg_namespace n "  # noqa: S608
        f"on n.oid = c.relnamespace where c.oid = '{_TABLE}'::pg_catalog.regclass",
        old=f"select step from {_TABLE} where done < now() - interval '{_DAYS} days' "  # noqa: S608
        f"limit {_AT_ONCE} for update skip locked",
        missing=("42P01",),
        forbidden=("42501",),
    ),
    "mysql": _Statements(
        create=f"create table if not exists {_TABLE} (step char(64) character set ascii primary key, "
        "execution text not null, name text not null, result longtext character set utf8mb4, "
        "done timestamp not null default current_timestamp, index (done)) engine=innodb",
        claim=f"insert ignore into {_TABLE} (step, execution, name) values (%s, %s, %s)",  # noqa: S608
        place="select concat('`', replace(database(), '`', '``'), '`')",
        old=f"select step from {_TABLE} where done < now() - interval {_DAYS} day limit {_AT_ONCE}",  # noqa: S608
        missing=(1046, 1146),  # no database is selected; no such table
        forbidden=(1044, 1142),
    ),
}

_trimmed: WeakSet[ConnectionPool] = WeakSet()
_places: WeakKeyDictionary[ConnectionPool, str] = WeakKeyDictionary()
"""What each pool's server answered to `place`."""


def step(pool: ConnectionPool, context: Any, name: str, work: Callable[[Any], Any], config: Any) -> Any:
    """Run `work(conn)` as one step of a durable function. See `Pool.step`."""
    if not (hasattr(context, "step") and hasattr(context, "execution_context")):
        raise ConfigError(
            f"context is not valid: step() takes the DurableContext of a durable function, not {type(context).__name__}"
        )
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        # Lambda would say so too late: the SDK does not wait for its answer before it calls the work.
        raise ConfigError(f"name={name!r} is not valid: Lambda takes 1 to 256 printable ASCII characters")
    if not callable(work):
        raise replay.not_callable(work)
    once = _Once(pool, context, name, work, getattr(config, "serdes", None), sys._getframe(2))
    return context.step(once.run, name=name, **({} if config is None else {"config": config}))


class _Once:
    """One step, which the SDK may run more than once."""

    def __init__(
        self,
        pool: ConnectionPool,
        context: Any,
        name: str,
        work: Callable[[Any], Any],
        serdes: object,
        frame: FrameType,
    ) -> None:
        self._pool = pool
        self._said = _STATEMENTS[pool.config.url.engine]
        self._execution = str(context.execution_context.durable_execution_arn)
        self._lambda_context = context.lambda_context
        self._name = name
        self._work = work
        self._serdes = serdes
        self._frame = frame
        self._key = ""
        self._answered = False
        """Whether it is known that no earlier run saved its result."""
        self._done = False
        """Whether only the COMMIT is left."""

    def run(self, step_context: Any) -> Any:
        """The SDK calls this in a thread of its own. Raises what the work and `Pool.run` raise."""
        self._key = blake2b(f"{self._execution}\n{_operation(step_context)}".encode(), digest_size=32).hexdigest()
        request = _bounded_by(self._lambda_context)
        token = asking.set(request)
        disarm = lifecycle.arm_request(request)
        try:
            found = self._committed()
            self._trim()  # only now: if there is no connection, the step has waited for one
            return found
        finally:
            if disarm is not None:
                disarm()
            request.over = True
            asking.reset(token)

    def _committed(self) -> Any:
        created = False
        refused: Exception | None = None
        uncertain: CommitUncertain | None = None
        for last in (False, False, True):
            self._answered = self._done = False
            try:
                ended = f"{self._called()} ended its transaction itself{_ENDED}"
                return json.loads(
                    replay.run(self._pool, self._once, _ATTEMPTS, readonly=False, frame=self._frame, ended=ended)
                )
            except CommitUncertain as error:
                # The row tells the next try what became of the pool's own COMMIT, but not of one in the work.
                if last or not self._done:
                    raise
                uncertain = error
            except Exception as error:
                if uncertain is not None and not self._answered:
                    raise uncertain from error
                if not self._answered and _has_code(error, self._said.forbidden):
                    # MySQL says the same about a missing table.
                    raise ConfigError(
                        f"pool {self._pool.name}: this role may not write into the table {_TABLE}, which records the "
                        f"steps. Let the owner of the database run this once: {self._said.create}; and grant the role "
                        "select, insert, update and delete on the table"
                    ) from error
                if self._answered or not _has_code(error, self._said.missing):
                    raise
                if isinstance(refused, LambdaPoolError):  # for example, no connection was available
                    raise refused from error
                if refused is not None:
                    raise ConfigError(
                        f"pool {self._pool.name}: the table {_TABLE}, which records the steps, is missing, and could "
                        f"not be created ({refused}). Correct that, or run this once: {self._said.create}"
                    ) from refused
                if created:
                    raise
                refused = self._create()
                created = True
        raise AssertionError("unreachable")

    def _once(self, conn: Any) -> str:
        """Do the work in one transaction, unless an earlier run has done it. Out: its result as JSON."""
        self._done = False
        with self._pool.connector.engine.cursor(conn) as cursor:
            # First, so that another run of the same step waits here until this one has ended.
            cursor.execute(self._said.claim, (self._key, self._execution, self._name))
            if cursor.rowcount != 1:
                cursor.execute(self._said.find, (self._key,))
                row = cursor.fetchone()
                if row is None or row[0] is None:
                    self._answered = True
                    raise NotCommitted(f"{self._called()} ended its transaction itself in an earlier run{_ENDED}")
                self._done = True
                return _text(row[0])
            self._answered = True
            # If this run fails, the next one asks again: somebody may have moved the table.
            place = _places.pop(self._pool, None) or self._place(cursor)
            stored = self._as_json(self._work(conn))
            self._finish(cursor, place, stored)
            _places[self._pool] = place
        self._done = True
        return stored

    def _place(self, cursor: Any) -> str:
        """Where the table is. The work may choose another schema or database for its own statements."""
        cursor.execute(self._said.place)
        return _text(cursor.fetchone()[0])

    def _finish(self, cursor: Any, place: str, stored: str) -> None:
        table = f"{place.replace('%', '%%')}.{_TABLE}"
        try:
            cursor.execute(f"update {table} set result = %s where step = %s", (stored, self._key))  # noqa: S608
        except Exception as error:
            if not _has_code(error, self._said.forbidden):
                raise
            raise ConfigError(
                f"{self._called()} took on a role that may not write into the table {_TABLE}, which records the steps, "
                "so nothing of it is saved: let the work end with SET LOCAL ROLE NONE (MySQL: SET ROLE DEFAULT), or "
                "grant that role select and update on the table"
            ) from error
        if cursor.rowcount != 1:
            raise NotCommitted(f"{self._called()} removed the step's record by a ROLLBACK of its own{_ENDED}")

    def _as_json(self, result: Any) -> str:
        if isawaitable(result):
            getattr(result, "close", lambda: None)()
            raise ConfigError(f"{self._called()} is 'async def': a step's work must be a plain function")
        try:
            stored = json.dumps(result, allow_nan=False)
            if self._serdes is None:  # otherwise the function's own decides what it can hold
                _check_recordable(json.loads(stored))
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"the result of {self._called()} cannot be stored, so nothing that it did is saved ({error}): return "
                "what JSON can hold, such as strings, numbers, lists and dictionaries"
            ) from error
        return stored

    def _called(self) -> str:
        return f"the step {self._name!r} of pool {self._pool.name}"

    def _create(self) -> Exception | None:
        """Make the table. Out: why that failed; another run may have made it. Raises ConfigError if not permitted."""
        try:
            with self._cursor() as cursor:
                cursor.execute(self._said.create)
        except Exception as error:
            if _has_code(error, self._said.forbidden):
                raise ConfigError(
                    f"pool {self._pool.name}: the table {_TABLE}, which records the steps, is missing, and this role "
                    f"may not create it. Let the owner of the database run this once: {self._said.create}"
                ) from error
            return error
        return None

    def _trim(self) -> None:
        """Delete old rows, once in each environment."""
        if self._pool in _trimmed:
            return
        _trimmed.add(self._pool)
        try:
            with self._cursor() as cursor:
                cursor.execute(self._said.old)
                if old := [row[0] for row in cursor.fetchall()]:
                    cursor.execute(f"delete from {_TABLE} where step in ({', '.join(['%s'] * len(old))})", old)  # noqa: S608
        except Exception as error:  # noqa: BLE001 - the next environment deletes them
            log.debug("pool %s: trimming %s failed: %s", self._pool.name, _TABLE, error)

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        """A cursor in a transaction of its own."""
        borrow = PooledContext(self._pool, None, readonly=False)
        with borrow as conn, self._pool.connector.engine.cursor(conn) as cursor:
            yield cursor


_ENDED = ": what it saved stays, and its result is not known. Leave COMMIT, ROLLBACK and DDL out of a step's work"


def _bounded_by(context: Any) -> Request:
    """The deadline of the invocation, which the SDK's threads do not know by themselves."""
    outer = asking.get()
    try:
        left = context.get_remaining_time_in_millis()
        deadline = monotonic() + left / 1000
    except (AttributeError, TypeError):
        deadline = None if outer is None else outer.deadline
    return Request(deadline)


def _check_recordable(result: Any) -> None:
    """Raise ValueError or RecursionError for a result that the SDK could not record after the work is committed."""
    from aws_durable_execution_sdk_python.serdes import EXTENDED_TYPES_SERDES, SerDesContext

    context = SerDesContext("", "")
    recorded = EXTENDED_TYPES_SERDES.serialize(result, context)
    if len(recorded) > _LARGEST:
        raise ValueError(f"the SDK records it in {len(recorded)} bytes, but Lambda takes at most {_LARGEST}")
    EXTENDED_TYPES_SERDES.deserialize(recorded, context)


def _text(value: Any) -> str:
    """A text from the server. If the database's encoding is SQL_ASCII, psycopg returns bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _operation(step_context: Any) -> str:
    """The SDK's own number of this operation, the same in each replay.

    It is in the fields that the SDK's logger adds to each record. The attribute is private:
    tests/frameworks/stacks/test_step.py fails when it changes.
    """
    found = getattr(step_context.logger, "_default_extra", {}).get("operationId")
    if not found:
        raise ConfigError(
            "Pool.step() does not know this version of aws-durable-execution-sdk-python, which does not give the "
            "number of a step: use version 3, or run the step with context.step()"
        )
    return str(found)


def _has_code(error: BaseException, codes: tuple[object, ...]) -> bool:
    """Whether an error of either driver has one of the server's codes: SQLSTATE, or MySQL's own number."""
    return getattr(error, "sqlstate", None) in codes or any(code in codes for code in error.args[:1])
