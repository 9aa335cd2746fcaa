"""A scripted database: a driver without a server, for tests of pure logic and of functions that use a pool."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..engines.base import Condition, ConnectRequest, Defaults, EngineConnection, Facts, Failure, Outcome, Status

if TYPE_CHECKING:
    from ..api import Pool


_MAY_FAIL = (
    "connect",
    "sessions",
    "ping",
    "begin",
    "commit",
    "rollback",
    "reset",
    "cancel",
    "execute",
    "set_baseline",
)


class FakeError(Exception):
    """What the scripted database raises. `failure` is what the pool classifies it as."""

    def __init__(self, failure: Failure, text: str = "") -> None:
        super().__init__(text or f"scripted: {failure.value}")
        self.failure = failure


class FakeConnection:
    """What a borrower gets: remembers every statement, and answers from the driver's script."""

    def __init__(self, driver: "FakeDriver", number: int) -> None:
        self.number = number
        self.statements: list[str] = []
        self.closed: bool = False
        self._driver = driver

    def cursor(self, *_: Any, **__: Any) -> "FakeCursor":
        """A cursor. What a driver's own `cursor` takes is accepted and has no effect: the script decides about rows."""
        return FakeCursor(self._driver, self)

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> "FakeCursor":
        """Run a statement on a new cursor: see `FakeCursor.execute`."""
        return self.cursor().execute(statement, parameters)

    def __enter__(self) -> "FakeConnection":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.closed:
            return
        if kind is None:
            self.commit()
            return
        with suppress(FakeError):  # the block's own error must come out
            self.rollback()

    @contextmanager
    def transaction(self, *_: Any, **__: Any) -> Iterator[object]:
        """A savepoint: a statement that fails in it fails only what is in it, if its error leaves the block."""
        link = self._driver.links[self.number]
        _check_transaction(link)
        begins, link.in_transaction = not link.in_transaction and link.autocommit, True
        guarded, link.guarded = link.guarded, True
        block = object()
        try:
            yield block
        except getattr(sys.modules.get("psycopg"), "Rollback", ()) as error:  # who raises it has imported psycopg
            link.failed = False
            if error.transaction not in (None, block):
                raise
        except BaseException:
            link.failed = False
            raise
        else:
            _check_transaction(link)
        finally:
            link.guarded = guarded
            if begins and not self.closed:
                link.in_transaction = link.failed = False

    def commit(self) -> None:
        """End the transaction, as a borrower might. Raises FakeError where psycopg refuses."""
        link = self._own("commit")
        if link.commit(None) is Outcome.FAILED:
            raise FakeError(Failure.OTHER, "COMMIT came after a statement of this transaction had failed")

    def rollback(self) -> None:
        """Undo the transaction, as a borrower might. Raises FakeError where psycopg refuses."""
        self._own("rollback").rollback(None)

    def _own(self, name: str) -> "FakeEngineConnection":
        link = self._driver.links[self.number]
        if link.guarded:
            raise FakeError(Failure.OTHER, f"Explicit {name}() forbidden inside Pool.run() and transaction()")
        if not link.alive or self.closed:
            raise FakeError(Failure.LOST)
        return link

    def close(self) -> None:
        """Close it, as a borrower might."""
        self.closed = True


class FakeCursor:
    """Runs statements, and has the rows that the script holds for the last one. Usable in `with`, and in `for`.

    `rowcount`: the number of these rows; 1 for a statement that is not in the script, as if it changed one row.
    """

    def __init__(self, driver: "FakeDriver", conn: FakeConnection) -> None:
        self.rowcount: int = -1
        self._driver = driver
        self._conn = conn
        self._rows: list[Any] = []

    def __enter__(self) -> "FakeCursor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> "FakeCursor":
        """Run a statement: it begins a transaction, and raises what the driver's `fail` ordered for "execute"."""
        self._conn.statements.append(statement)
        self._driver.links[self._conn.number].execute()
        rows = self._driver.answers.get(statement)
        self._rows = list(rows or ())
        self.rowcount = 1 if rows is None else len(rows)
        return self

    def executemany(self, statement: str, parameters: Iterable[Sequence[Any]]) -> None:
        """Run a statement once for each; `rowcount` is that of all together."""
        self.rowcount = sum(self.execute(statement, each).rowcount for each in parameters)

    def fetchone(self) -> Any:
        """The next row, or None."""
        return self._rows.pop(0) if self._rows else None

    def fetchmany(self, size: int = 1) -> list[Any]:
        """The next rows."""
        rows, self._rows = self._rows[:size], self._rows[size:]
        return rows

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        return self.fetchmany(len(self._rows))

    def close(self) -> None:
        """Forget the rows that are left."""
        self._rows = []


class FakeEngineConnection:
    """One scripted connection, as the pool sees it (`FleetConnection`)."""

    def __init__(self, driver: "FakeDriver", number: int, *, autocommit: bool) -> None:
        self.autocommit = autocommit
        self.driver_connection: FakeConnection = FakeConnection(driver, number)
        self.backend_id = number
        self.alive: bool = True
        self.readable: bool = False
        self.in_transaction: bool = False
        self.failed: bool = False
        self.guarded: bool = False
        self.readonly: bool = False
        self.history: list[str] = []
        self.session_idle: float = 0.0
        self._driver = driver

    def kill(self) -> None:
        """The server closes it: the socket turns readable, and every use fails."""
        self.alive = False
        self.readable = True

    def do(self, name: str) -> None:
        """Note a call and raise what was ordered for it; a loss or a shutdown also kills the connection."""
        self.history.append(name)
        try:
            self._driver.trip(name)
        except FakeError as error:
            if error.failure in {Failure.LOST, Failure.SHUTDOWN}:
                self.kill()
            raise

    def execute(self) -> None:
        """A borrower's statement. As on PostgreSQL, one that fails makes the server refuse the rest."""
        _check_transaction(self)
        self.in_transaction = self.in_transaction or not self.autocommit
        try:
            self.do("execute")
        except BaseException:
            self.failed = self.in_transaction
            raise
        if not self.alive or self.driver_connection.closed:
            raise FakeError(Failure.LOST)

    def sessions(self, timeout: float) -> tuple[int, int]:
        """Not in the history, which tests compare as a whole."""
        self._driver.trip("sessions")
        return self._driver.sessions

    def set_baseline(self) -> None:
        self.do("set_baseline")

    def limited(self, timeout: float) -> AbstractContextManager[None]:
        """No framework asks a scripted connection anything."""
        return nullcontext()

    def uncounted(self) -> AbstractContextManager[None]:
        return nullcontext()

    def read_rest(self, timeout: float | None) -> None:
        """Nothing is streamed."""

    def is_silent(self) -> bool:
        return not (self.readable or self.driver_connection.closed)

    def status(self) -> Status:
        if self.failed:
            return Status.FAILED
        return Status.IN_TRANSACTION if self.in_transaction else Status.IDLE

    def inspect(self, *, ask: bool = False) -> Facts:
        closed = self.driver_connection.closed
        if not self.alive or closed or self.readonly or self.failed:
            condition = Condition.CHANGED
        else:
            condition = Condition.UNCOMMITTED if self.in_transaction else Condition.CLEAN
        return Facts(condition, closed, closed and self.in_transaction, self.readonly, Failure.OTHER, True, False)

    def ping(self, timeout: float) -> None:
        self.do("ping")
        if not self.alive or self.driver_connection.closed:
            raise FakeError(Failure.LOST)
        self.readable = False

    def begin(self, *, readonly: bool, guarded: bool, timeout: float) -> None:
        self.do("begin")
        self.in_transaction = True
        self.guarded = guarded
        self.readonly = readonly

    def commit(self, timeout: float | None, *, last: bool = True) -> Outcome:
        return self._end("commit", Outcome.COMMITTED)

    def rollback(self, timeout: float | None, *, last: bool = True) -> Outcome:
        return self._end("rollback", Outcome.ROLLED_BACK)

    def _end(self, name: str, outcome: Outcome) -> Outcome:
        if not self.alive:
            return Outcome.FAILED
        if not self.in_transaction:
            return Outcome.NONE
        self.do(name)
        failed, self.in_transaction, self.failed, self.guarded = self.failed, False, False, False
        return Outcome.FAILED if failed and outcome is Outcome.COMMITTED else outcome

    def reset(self, timeout: float | None) -> bool:
        self.do("reset")
        self.readonly = False
        return self.inspect().condition is Condition.CLEAN

    def cancel(self, timeout: float, aside: "Callable[[str], EngineConnection]") -> bool:
        self.do("cancel")
        return True

    def close(self, timeout: float) -> None:
        self.history.append("close")
        self.alive = False

    def discard(self) -> None:
        self.history.append("discard")
        self.alive = False

    def abort(self, *, cancelled: bool = False) -> None:
        self.history.append("abort")
        self.alive = False


def _check_transaction(link: FakeEngineConnection) -> None:
    """Raises FakeError if a statement of the transaction has failed."""
    if link.failed and link.alive:
        raise FakeError(
            Failure.OTHER, "current transaction is aborted, commands ignored until end of transaction block"
        )


class FakeDriver:
    """A scripted engine. `pool()` makes a `lambda_pool.Pool` on it that reaches no network, whose connections do what
    psycopg's do on PostgreSQL.

        driver = FakeDriver(answers={"select 1": [(1,)]})
        with driver.pool().connection() as conn:
            assert conn.execute("select 1").fetchone() == (1,)

    `links` are the connections it opened, oldest first. `fail(name, error, …)` orders what the next calls of one of the
    driver's methods raise: `connect`, `sessions`, `ping`, `begin`, `commit`, `rollback`, `reset`, `cancel`, `execute`,
    `set_baseline`.
    `sessions` is how many connections the database has, and may have.
    """

    name = "postgresql"
    awaited = False

    def __init__(self, *, answers: dict[str, Sequence[Any]] | None = None) -> None:
        self.answers: dict[str, Sequence[Any]] = answers or {}
        self.links: list[FakeEngineConnection] = []
        self.requests: list[ConnectRequest] = []
        self.sessions: tuple[int, int] = (1, 100)
        self._lock = Lock()
        self._orders: dict[str, list[BaseException | None]] = {}

    def pool(self, url: str = "postgresql://fake@fake.example/fake", **arguments: Any) -> "Pool":
        """A pool on this driver; arguments as `Pool`'s."""
        from ..api import Pool

        class FakePool(Pool):
            def _engine_for(_, name: str) -> FakeDriver:  # noqa: N805 - `self` is the driver here
                return self

        return FakePool(url, **arguments)

    def fail(self, name: str, *errors: BaseException | None) -> None:
        """Order what the next calls of `name` raise, one each; None lets a call pass.

        Raises ValueError for any other name.
        """
        if name not in _MAY_FAIL:
            raise ValueError(f"the driver has no {name!r} that could fail: it must be one of {', '.join(_MAY_FAIL)}")
        self._orders.setdefault(name, []).extend(errors)

    def obey(self) -> None:
        """Forget every order: nothing fails from now on."""
        self._orders.clear()

    def trip(self, name: str) -> None:
        """Raise what was ordered for this call, if anything was."""
        orders = self._orders.get(name)
        error = orders.pop(0) if orders else None
        if error is not None:
            raise error

    def load(self) -> None:
        """See `Engine`."""

    def arguments(self, parameters: Mapping[str, str], given: Mapping[str, Any], *, pooled: bool) -> Mapping[str, Any]:
        """See `Engine`; each is taken as it is."""
        return {**parameters, **given}

    def defaults(self) -> Defaults:
        return Defaults()

    def connect(self, request: ConnectRequest) -> FakeEngineConnection:
        self.requests.append(request)
        self.trip("connect")
        with self._lock:
            link = FakeEngineConnection(self, len(self.links), autocommit=request.autocommit)
            link.session_idle = request.session_idle
            self.links.append(link)
        return link

    def cursor(self, conn: FakeConnection) -> FakeCursor:
        return conn.cursor()

    def in_coroutines(self, conn: Any) -> Any:
        return conn

    def classify(self, error: BaseException) -> Failure:
        return error.failure if isinstance(error, FakeError) else Failure.OTHER
