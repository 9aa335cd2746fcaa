"""What can happen to a function, scene by scene, while all its output is collected.

It runs as a program: the facts come on standard input (see `given`); the output goes into the file named there.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

import lambda_pool
from lambda_pool import AuroraCluster, IamToken, LambdaPoolError, Pool, RdsProxy, SecretsManager
from lambda_pool.api import core_of
from lambda_pool.auth import iam
from lambda_pool.cli import main
from lambda_pool.cli.doctor import diagnose
from lambda_pool.endpoints.base import Role
from lambda_pool.invocation import Deadline
from lambda_pool.metrics.cloudwatch import PutMetrics
from lambda_pool.metrics.emf import EmfMetrics
from lambda_pool.secret import Secret
from tests.support.core import entries
from tests.unit.secrets.given import GIVEN
from tests.unit.secrets.outlet import Outlet

Scene = Callable[[Outlet], None]
SCENES: dict[str, Scene] = {}
PACKAGE = str(Path(lambda_pool.__file__).parent)

PATIENT: Any = {"timeout": 3.0, "connect_timeout": 3.0}
QUICK: Any = {"timeout": 0.5, "connect_timeout": 0.3}


STRIKES = int(os.environ.get("STRIKES", "25"))
"""The number of lines at which an interrupt strikes, in each way of connecting; 10000 means every line."""


def scene(play: Scene) -> Scene:
    SCENES[play.__name__] = play
    return play


class Listener:
    """An observer that passes every event on."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def on_event(self, event: Any) -> None:
        self._outlet.walk(type(event).__name__, event)
        self._outlet.copies(type(event).__name__, event)


def use(pool: Pool) -> None:
    """What handlers do with a pool."""
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("select 1")
    with pool.connection(readonly=True) as conn, conn.cursor() as cursor:
        cursor.execute("select 2")
    pool.run(lambda conn: conn.cursor().execute("select 3"))
    with suppress(ZeroDivisionError), pool.connection() as conn:
        conn.cursor().execute("select 4")
        raise ZeroDivisionError


def examine(outlet: Outlet, pool: Pool) -> None:
    """A pool with everything in it, and everything that it would pass to the driver."""
    outlet.walk("pool", pool)
    for found in (pool, pool.config, pool.config.url, core_of(pool).connector.auth):
        outlet.copies(type(found).__name__, found)
    deadline = Deadline(5.0)
    try:
        request, endpoint = core_of(pool).connector._prepare(Role.WRITER, deadline, 1)
    except LambdaPoolError as error:
        outlet.error(error)
        return
    for part in (request, endpoint, request.credentials):
        outlet.walk(type(part).__name__, part)
        outlet.copies(type(part).__name__, part)
    outlet.threads()


@contextmanager
def fails(outlet: Outlet, *kinds: type[BaseException]) -> Iterator[None]:
    """Inside, one of these errors is raised, and everything about it is collected."""
    try:
        yield
    except kinds as error:
        outlet.error(error)
    else:
        raise AssertionError(f"{outlet.scene}: nothing was raised, where {kinds} should have been")


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


# --- logging in -------------------------------------------------------------------------------------------------------


@scene
def password_in_the_url(outlet: Outlet) -> None:
    pool = Pool(GIVEN.url(), observers=[Listener(outlet)])
    use(pool)
    examine(outlet, pool)
    pool.close()


@scene
def password_apart(outlet: Outlet) -> None:
    pool = Pool(**GIVEN.parts(), password=GIVEN.secret("password"), observers=[Listener(outlet)])
    use(pool)
    examine(outlet, pool)
    pool.close()


@scene
def passwords_in_the_query(outlet: Outlet) -> None:
    name = "sslpassword" if GIVEN.postgres else "ssl_key_password"
    pool = Pool(GIVEN.url(**{name: GIVEN.secret("password")}))
    use(pool)
    examine(outlet, pool)
    pool.close()


@scene
def everything_in_the_environment(outlet: Outlet) -> None:
    parts = {f"LAMBDA_POOL_{name.upper()}": str(value) for name, value in GIVEN.parts().items()}
    with environment(**parts, LAMBDA_POOL_PASSWORD=GIVEN.secret("password")):
        pool = Pool.from_env()
        use(pool)
        examine(outlet, pool)
        pool.close()
    with environment(LAMBDA_POOL_URL=GIVEN.url()):
        pool = Pool.from_env()
        use(pool)
        pool.close()


@scene
def iam_token(outlet: Outlet) -> None:
    pool = Pool(GIVEN.url(user="app", secret=None), auth=IamToken(), observers=[Listener(outlet)])
    use(pool)
    examine(outlet, pool)
    pool.close()
    use(pool)  # with the cached token
    pool.close()


@scene
def iam_token_refused(outlet: Outlet) -> None:
    pool = Pool(GIVEN.url(user="canary", secret=None), auth=IamToken(), observers=[Listener(outlet)], **PATIENT)
    for _ in range(2):  # a fresh token, then a cached one
        with fails(outlet, lambda_pool.CredentialsError), pool.connection():
            pass
    examine(outlet, pool)
    with (
        fails(outlet, lambda_pool.ConfigError),
        Pool(GIVEN.url(user="app", secret=None, sslmode="disable"), auth=IamToken()).connection(),
    ):
        pass


@scene
def secrets_manager(outlet: Outlet) -> None:
    for name in ("good", "half-rotated"):
        pool = Pool(GIVEN.url(user="", secret=None), auth=SecretsManager(name), observers=[Listener(outlet)])
        use(pool)
        examine(outlet, pool)
        pool.close()


@scene
def secrets_manager_fails(outlet: Outlet) -> None:
    for name in ("wrong", "not-json", "binary", "no-password", "missing"):
        pool = Pool(GIVEN.url(user="", secret=None), auth=SecretsManager(name), observers=[Listener(outlet)], **PATIENT)
        with fails(outlet, lambda_pool.CredentialsError), pool.connection():
            pass
        examine(outlet, pool)
    for where in ("quoting_api", "hole"):
        with environment(AWS_ENDPOINT_URL=f"http://127.0.0.1:{GIVEN[where]}"):
            pool = Pool(GIVEN.url(user="", secret=None), auth=SecretsManager("good"), **QUICK)
            with fails(outlet, lambda_pool.CredentialsError), pool.connection():
                pass
    with fails(outlet, lambda_pool.ConfigError):  # the secret itself, where its name belongs
        Pool(GIVEN.url(secret=None), auth=SecretsManager(json.dumps({"password": GIVEN.secret("password")})))


@scene
def endpoint_not_found(outlet: Outlet) -> None:
    with environment(AWS_ENDPOINT_URL=f"http://127.0.0.1:{GIVEN['quoting_api']}"):
        for endpoint in (RdsProxy("orders"), AuroraCluster("orders")):
            pool = Pool(GIVEN.url(), endpoint=endpoint, observers=[Listener(outlet)], **QUICK)
            with fails(outlet, lambda_pool.EndpointError), pool.connection():
                pass
            examine(outlet, pool)


# --- failing to connect -----------------------------------------------------------------------------------------------


@scene
def cannot_connect(outlet: Outlet) -> None:
    # For a database that does not exist, MySQL says that the user may not enter it.
    nowhere = lambda_pool.CredentialsError if GIVEN.url().startswith("mysql") else lambda_pool.ConnectError
    ways: dict[str, tuple[str, dict[str, Any], type[Exception]]] = {
        "wrong password": (GIVEN.url(secret="wrong"), {}, lambda_pool.CredentialsError),
        "wrong database": (GIVEN.url(database="nowhere"), {}, nowhere),
        "refused": (GIVEN.url(port=GIVEN["closed"]), {}, lambda_pool.ConnectError),
        "no answer": (GIVEN.url(port=GIVEN["hole"]), {}, lambda_pool.ConnectError),
        "untrusted": (GIVEN.url(sslrootcert="system"), {}, lambda_pool.ConnectError),
    }
    scenery = outlet.scene
    for name in list(ways):
        outlet.scene = f"{scenery}, {name}"
        url, arguments, kind = ways.pop(name)
        waiting = QUICK if name in {"refused", "no answer"} else PATIENT
        pool = Pool(url, connect_args=arguments, observers=[Listener(outlet)], **waiting)
        with fails(outlet, kind), pool.connection():
            pass
        with fails(outlet, kind):
            pool.warm(strict=True)
        pool.warm()
        examine(outlet, pool)


@scene
def malformed_urls(outlet: Outlet) -> None:
    patterns = (
        "{raw}",
        "{scheme}:{raw}@h/d",
        "{scheme}:/app:{raw}@h/d",
        "{scheme}://app:{raw}@h/d",
        "{scheme}://app:{raw}",
        "{scheme}://{raw}@h/d",
        "{scheme}://app:{raw}@h:{raw}/d",
        "{scheme}://app:1{raw}?x@h/d",
        "{scheme}://app:12?{alone}@h/d",
        "{scheme}://app:12?{alone}=x@h/d",
        "{scheme}://app:a@b?{alone}=x@h/d",
        "{scheme}://app:12#{alone}@h/d",
        "{scheme}://app:12/{alone}@h/d",
        "{scheme}://app:12[{alone}@h/d",
        "{scheme}://[app:{alone}@h/d",
        "{scheme}://app:{quoted}@h/d?password={quoted}",
        "{scheme}://app@h/d?password={quoted}",
        "{scheme}://app@h/d?password={quoted}&password={quoted}",
        "{scheme}://app:{quoted}%ff@h/d",
        "{scheme}://app:{quoted}%00@h/d",
        "{scheme}://app:{quoted}@h:port/d",
        "{scheme}://app:{quoted}@h:99999/d",
        "{scheme}://app:{quoted}@h/d/e",
        "{scheme}://app:{quoted}@h h/d",
        "{scheme}://app:{quoted}@h,i/d",
        "{scheme}://app:{quoted}@h/d?host=/tmp",
        "{scheme}://app:{quoted}@h/d?sslmode=never",
        "{scheme}://app:{quoted}@h/d?x",
        "{scheme}://app%3A{quoted}%40h/d",
        "{scheme}://app%3A{quoted}%40h%3A5432/d",
        "{scheme}://app:{quoted}\udcff@h/d",
        "oracle://app:{quoted}@h/d",
        "app:{quoted}@{scheme}://h/d",
    )
    scenery = outlet.scene
    for pattern in patterns:
        outlet.scene = f"{scenery}, {pattern!a}"
        texts = Secret(
            json.dumps(
                {
                    "raw": GIVEN.secret("password"),
                    "alone": GIVEN.secret("password")[:16],
                    "quoted": quote(GIVEN.secret("password"), safe=""),
                    "scheme": GIVEN["scheme"],
                }
            )
        )
        try:
            pool = Pool(pattern.format_map(json.loads(texts.reveal())))
        except LambdaPoolError as error:
            outlet.error(error)
            diagnosis = diagnose(pattern.format_map(json.loads(texts.reveal())), timeout=1.0)
            outlet.write("diagnosis", json.dumps(diagnosis))
        else:
            examine(outlet, pool)
        with environment(LAMBDA_POOL_URL=pattern.format_map(json.loads(texts.reveal()))), suppress(LambdaPoolError):
            outlet.walk("pool", Pool.from_env())


@scene
def wrong_options(outlet: Outlet) -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {"timeout": "soon"},
        {"auth": GIVEN.secret("password")},
        {"endpoint": GIVEN.secret("password")},
        {"observers": 5},
        {"connect_args": GIVEN.secret("password")},
        {"connect_args": [GIVEN.secret("password")]},
        {"connect_args": {"passwrd": GIVEN.secret("password")}},
        {"connect_args": {"password": GIVEN.secret("password")}},
        {"connect_args": {"password": [GIVEN.secret("password")]}},
        {"connect_args": {"init_command": GIVEN.secret("password") + "\udcff"}},
        {"connect_args": {"options": [GIVEN.secret("password")], "client_flag": GIVEN.secret("password")}},
        {"host": GIVEN.secret("password")},
        {"password": GIVEN.secret("password")},
        {"passwrd": GIVEN.secret("password")},
        {"min_size": 5, "connect_args": {"password": GIVEN.secret("password")}},
    )
    for number in range(len(wrong)):
        with fails(outlet, Exception):
            Pool(GIVEN.url(), **wrong[number])
    del wrong
    for query in ("passwrd", "ssl", "keepalives", "client_flag", "schema"):
        with fails(outlet, lambda_pool.ConfigError):
            Pool(GIVEN.url(**{query: GIVEN.secret("password")}))
    misplaced: tuple[dict[str, Any], ...] = (
        {"host": GIVEN.url()},
        {"host": "h", "port": GIVEN.secret("password")},
        {"host": "h", "engine": GIVEN.secret("password")},
        {"host": "h", "password": [GIVEN.secret("password")], "port": 5432},
        {"host": "h", "password": GIVEN.secret("password") + "\udcff", "port": 5432},
        {"host": "h", "password": GIVEN.secret("password") + "\0", "port": 3306},
        {"password": GIVEN.secret("password"), "port": 3306},
        {"password": GIVEN.secret("password"), "host": "h"},
    )
    for number in range(len(misplaced)):
        with fails(outlet, lambda_pool.ConfigError):
            Pool(**misplaced[number])
    del misplaced
    for name in ("PASSWORD", "CONNECT_ARGS", "AUTH_TOKEN"):
        with environment(**{f"LAMBDA_POOL_{name}": GIVEN.secret("password"), "LAMBDA_POOL_URL": GIVEN.url()}):
            with fails(outlet, lambda_pool.ConfigError):
                Pool.from_env()
            with fails(outlet, lambda_pool.ConfigError):
                Pool(GIVEN.url())
            outlet.write("diagnosis", json.dumps(diagnose(timeout=1.0)))


# --- in the middle ----------------------------------------------------------------------------------------------------


@scene
def the_server_hangs_up(outlet: Outlet) -> None:
    suicide = "select pg_terminate_backend(pg_backend_pid())" if GIVEN.postgres else "kill connection_id()"
    pool = Pool(GIVEN.url(), observers=[Listener(outlet)])
    with fails(outlet, Exception), pool.connection() as conn:
        conn.cursor().execute(suicide)
    with fails(outlet, Exception):
        pool.run(lambda conn: conn.cursor().execute(suicide), attempts=2)
    use(pool)
    examine(outlet, pool)
    pool.close()


@scene
def slow_statements(outlet: Outlet) -> None:
    pool = Pool(GIVEN.url(), observers=[Listener(outlet)], slow_query=0.01)
    sleep = "pg_sleep" if GIVEN.postgres else "sleep"
    with pool.connection() as conn:
        with conn.cursor() as cursor:
            cursor.execute(f"select %s, {sleep}(0.05)", (GIVEN.secret("parameter"),))
            cursor.executemany(f"select %s, {sleep}(0.02)", [(GIVEN.secret("parameter"),)] * 2)
    pool.close()


@scene
def leaks(outlet: Outlet) -> None:
    pool = Pool(GIVEN.url(), observers=[Listener(outlet)], leak_after=0.01, max_size=2)
    kept = []

    def borrow(password: str) -> None:
        lease = pool.connection()
        lease.__enter__()
        kept.append(lease)

    @pool.handler
    def handler(event: Any, context: Any, conn: Any) -> None:
        borrow(GIVEN.secret("password"))
        time.sleep(0.02)

    handler({}, None)
    examine(outlet, pool)
    pool.close()


@scene
def reports(outlet: Outlet) -> None:
    pool = Pool(GIVEN.url(), observers=[EmfMetrics(interval=0.0), PutMetrics(interval=0.0)])

    @pool.handler
    def handler(event: Any, context: Any, conn: Any) -> None:
        conn.cursor().execute("select 1")

    for where in ("moto", "quoting_api", "hole"):
        with environment(AWS_ENDPOINT_URL=f"http://127.0.0.1:{GIVEN[where]}"):
            handler({}, None)
            pool.close()
    outlet.walk("pool", pool)


@scene
def doctor(outlet: Outlet) -> None:
    pools = [
        Pool(GIVEN.url()),
        Pool(GIVEN.url(secret="wrong"), **QUICK),
        Pool(GIVEN.url(port=GIVEN["hole"]), **QUICK),
        Pool(GIVEN.url(sslrootcert="system"), **QUICK),
        Pool(**GIVEN.parts(), password=GIVEN.secret("wrong"), **QUICK),
        Pool(GIVEN.url(user="app", secret=None), auth=IamToken()),
        Pool(GIVEN.url(user="canary", secret=None), auth=IamToken(), **QUICK),
        Pool(GIVEN.url(user="", secret=None), auth=SecretsManager("good")),
        Pool(GIVEN.url(user="", secret=None), auth=SecretsManager("not-json")),
    ]
    for pool in pools:
        report = diagnose(pool, timeout=3.0)
        assert report["steps"]
        outlet.write("diagnosis", json.dumps(report))
    for arguments in (
        ["doctor", "--url"],
        ["doctor", "--json", "--url"],
        ["top", "--once"],
        ["doctor"],
        ["plan", "--live", "--url"],
        ["--verbose"],
        ["doctor", "--timeout"],
    ):
        for changes in ({}, {"secret": "wrong", "port": GIVEN["closed"]}):
            # The arguments are the user's own, but the output is not.
            with environment(LAMBDA_POOL_TIMEOUT="0.3"), suppress(SystemExit):
                main([*arguments, GIVEN.url(**changes)])
    with environment(LAMBDA_POOL_URL=GIVEN.url()):
        main(["doctor"])
        main(["doctor", "--json"])


# --- crashes ----------------------------------------------------------------------------------------------------------


class Crash(Exception):
    """An error that nobody expects."""


class Interrupt(BaseException):
    """The exception that a signal's handler raises."""


def methods(pool: Pool) -> Iterator[tuple[object, str]]:
    """Every method of the pool and of the objects that it works with."""
    with pool.connection():
        link = entries(pool)[0].link
    core = core_of(pool)
    connector = core.connector
    for found in (pool, core, connector, connector.engine, connector.auth, connector.endpoint, core.events, link):
        kind = type(found)
        for name in dir(kind):
            if callable(getattr(kind, name)) and name not in dir(object):
                owner = next(base for base in kind.__mro__ if name in vars(base))
                if owner.__module__.startswith("lambda_pool"):
                    yield owner, name


@scene
def a_crash_in_each_method(outlet: Outlet) -> None:
    first = Pool(GIVEN.url())
    found = list(dict.fromkeys(methods(first)))
    first.close()
    assert len(found) > 60, len(found)
    scenery = outlet.scene
    for owner, name in found:
        outlet.scene = f"{scenery}, {owner.__name__}.{name}"  # type: ignore[attr-defined]
        for early in (True, False):
            original = vars(owner)[name]
            if isinstance(original, staticmethod | classmethod | property):
                continue

            def crash(*args: Any, _early: bool = early, _original: Any = original, **named: Any) -> Any:
                if not _early:
                    _original(*args, **named)
                raise Crash

            pool = Pool(GIVEN.url(), **QUICK)
            setattr(owner, name, crash)
            try:
                with suppress(Crash):
                    try:
                        use(pool)
                        pool.close()
                    except BaseException as error:
                        outlet.error(error)
            finally:
                setattr(owner, name, original)
            with suppress(Exception):
                pool.close()


@scene
def an_interrupt_at_many_lines(outlet: Outlet) -> None:
    """During connecting, which is the only time when passwords are in plain text."""
    ways: tuple[Callable[[], Pool], ...] = (
        lambda: Pool(GIVEN.url()),
        # Only up to the token: the servers' checker of tokens cannot take a login that ends in the middle.
        lambda: Pool(GIVEN.url(user="app", secret=None, port=GIVEN["closed"]), auth=IamToken(), timeout=0.05),
        lambda: Pool(GIVEN.url(user="", secret=None), auth=SecretsManager("good")),
    )
    scenery = outlet.scene
    for number, make in enumerate(ways):
        lines = 0
        while interrupted(outlet, make(), lines + 50):  # how many there are, to the nearest fifty
            lines += 50
        assert lines > 50, lines
        # The last way loads the SDK again each time, which takes a hundred times as long as all the rest.
        for at in range(1, lines, max(1, lines // (STRIKES if number < 2 else STRIKES // 3))):
            where = interrupted(outlet, make(), at)
            outlet.scene = f"{scenery}, {where}"


def interrupted(outlet: Outlet, pool: Pool, at: int) -> str | None:
    """Connect, with an interrupt at the `at`-th line of the package. Out: the place; None if it ended before."""
    left, where, raised = at, None, None

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left, where, raised
        name = frame.f_code.co_filename
        # The code that makes frames private must be allowed to finish: an interrupt there would be a second one.
        if not name.startswith(PACKAGE) or name.endswith("secret.py"):
            return None
        if event == "exception":
            raised = frame
        elif event == "line" and frame is raised:
            # CPython 3.11 has not yet noted the exception when a `with` or an `except` begins to look at it. One that
            # its trace function raises there, where no signal handler runs, leaves the thread's state in disorder.
            raised = None
        elif event == "line":
            left -= 1
            if left == 0:
                where = f"{name}:{frame.f_lineno}"
                raise Interrupt
        return trace

    sys.settrace(trace)
    try:
        pool.warm(strict=True)
    except (Interrupt, lambda_pool.ConnectError, lambda_pool.CredentialsError) as error:  # the last: it took too long
        sys.settrace(None)
        outlet.error(error)
    finally:
        sys.settrace(None)
        pool.close()
    return where


@scene
def what_is_left(outlet: Outlet) -> None:
    """Connections that nobody closed."""
    pool = Pool(GIVEN.url())
    link, _ = core_of(pool).connector.open(Role.WRITER, Deadline(5.0))
    outlet.walk("link", link)
    del link, pool
    gc.collect()


def run() -> None:
    GIVEN.read()
    outlet = Outlet()
    signing: Any = iam
    sign = signing.sign

    def signed(*args: Any) -> str:
        token = sign(*args)
        outlet.write("signed", token.rpartition("=")[2])  # taken out again by the test: what to look for
        return str(token)

    signing.sign = signed
    chosen = GIVEN["scenes"] or list(SCENES)
    with outlet.listening():
        for name in chosen:
            outlet.scene = name
            start = time.monotonic()
            SCENES[name](outlet)
            print(f"{name}: {time.monotonic() - start:.1f} s", file=sys.stderr)
            # Each scene's own, so that no label is made of another's.
            outlet.scene = ""
    print(f"{outlet.errors} errors, {outlet.objects} objects", file=sys.stderr)
    with Path(GIVEN["file"]).open("w") as file:
        outlet.save(file)


if __name__ == "__main__":
    run()
