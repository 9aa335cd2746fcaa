"""Init on the genuine runtime: what `warm()` opens there, when a pool warms by itself, and what a failure costs."""

import pytest

from lambda_pool.testing.answers import LambdaInitError
from tests.on_lambda.conftest import FUNCTION, Start
from tests.on_lambda.databases import Database

WARM = FUNCTION.replace("@POOL.handler", "POOL.warm()\n\n@POOL.handler")
STRICT = WARM.replace("POOL.warm()", "POOL.warm(strict=True)")
DEFAULT = """
import lambda_pool
from lambda_pool.api import default_pool

@lambda_pool.handler
def handler(event, context, conn):
    stats = default_pool().stats()
    return {"stats": {"opened": stats.opened, "reused": stats.reused}}
"""


def opened_and_reused(answer: object) -> tuple[int, int]:
    stats = answer.payload["stats"]  # type: ignore[attr-defined]
    return stats["opened"], stats["reused"]


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize("code", [FUNCTION, DEFAULT], ids=["a pool", "the default pool"])
@pytest.mark.parametrize(
    ("initialization", "reused"), [("on-demand", 0), ("provisioned-concurrency", 1), ("lambda-managed-instances", 0)]
)
def test_only_provisioned_concurrency_warms_by_itself(
    start: Start, database: Database, code: str, initialization: str, reused: int
) -> None:
    """There, Init is paid for and nobody waits for it. Elsewhere it would open something that perhaps nobody uses."""
    database.user("provisioned")
    url = database.url("provisioned")
    env = {"AWS_LAMBDA_INITIALIZATION_TYPE": initialization, "LAMBDA_POOL_URL": url}
    runtime = start(url, code=code, env=env)
    assert opened_and_reused(runtime.invoke()) == (1, reused)


@pytest.mark.sampled(1, "a second a case")
def test_warm_at_import_opens_during_init(start: Start, database: Database, any_python: str) -> None:
    database.user("warmed")
    options = {"max_size": 3, "min_size": 3}
    runtime = start(database.url("warmed"), code=WARM, options=options, python=any_python)
    assert opened_and_reused(runtime.invoke()) == (3, 1)
    assert len(database.sessions("warmed")) == 3


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize("initialization", ["on-demand", "provisioned-concurrency"])
def test_a_database_that_is_not_there_yet_does_not_fail_init(
    start: Start, database: Database, initialization: str
) -> None:
    database.user("early")
    database.lock("early")
    code = WARM if initialization == "on-demand" else FUNCTION
    env = {"AWS_LAMBDA_INITIALIZATION_TYPE": initialization}
    runtime = start(database.url("early"), code=code, env=env)
    failed = runtime.invoke()
    assert failed.error is not None
    # A locked account: in PostgreSQL it may not log in, MariaDB says that it is locked.
    assert failed.error["errorType"] == ("ConnectError" if database.engine == "postgresql" else "CredentialsError")
    assert "could not be warmed" in failed.log
    database.unlock("early")
    assert opened_and_reused(runtime.invoke()) == (1, 0)


@pytest.mark.sampled(1, "a second a case")
def test_unless_asked_for(start: Start, database: Database) -> None:
    database.user("strict")
    database.lock("strict")
    runtime = start(database.url("strict"), code=STRICT)
    with pytest.raises(LambdaInitError):
        runtime.invoke()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"LAMBDA_POOL_PASSWORD": "x", "LAMBDA_POOL_AUTH": "iam"}, "LAMBDA_POOL_PASSWORD is set, and auth=... or"),
        ({"LAMBDA_POOL_RESET": "schön 🐘"}, r"LAMBDA_POOL_RESET='sch\xf6n \U0001f418' is not valid"),
    ],
)
def test_a_wrong_setting_is_told(start: Start, any_python: str, setting: dict[str, str], said: str) -> None:
    """The runtime encodes an error of Init as Latin-1, and its caller reads UTF-8."""
    env = {"LAMBDA_POOL_ENGINE": "postgresql", "LAMBDA_POOL_HOST": "db.example", "LAMBDA_POOL_USER": "app", **setting}
    runtime = start("", code="import lambda_pool\nlambda_pool.Pool()", env=env, python=any_python)
    with pytest.raises(LambdaInitError) as caught:
        runtime.invoke()
    assert f"ConfigError: {said}" in str(caught.value)


def test_the_server_shows_whose_session_it_is(start: Start, databases: dict[str, Database]) -> None:
    """Database Insights groups by it."""
    database = databases["postgresql"]
    database.user("named")
    runtime = start(database.url("named"))
    answer = runtime.invoke({"sql": "select application_name from pg_stat_activity where pid = pg_backend_pid()"})
    assert answer.payload["rows"] == [["function:$LATEST postgres"]]
