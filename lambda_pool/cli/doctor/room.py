"""The step of a diagnosis that looks at the fleet: how full the server is, and what it does with idle sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lambda_pool.aws.hosts import is_dsql
from lambda_pool.cli.doctor.report import Finding, ok, warning
from lambda_pool.cli.doctor.words import of_error
from lambda_pool.cli.terminal import duration
from lambda_pool.core.policy import keep

if TYPE_CHECKING:
    from lambda_pool.cli.doctor.checks import Patient

_TIMER = {
    "postgresql": "select setting::float / 1000 from pg_settings where name = 'idle_session_timeout'",
    "mysql": "select @@wait_timeout",
}
_MOST_ENVIRONMENTS = 1000
"""How many environments Lambda lets an account run at once, if nobody has asked for more."""


def room(patient: Patient) -> Finding:
    """How many connections there are, and how many are allowed; whether the pool may ask; and the timers."""
    link, config = patient.link, patient.pool.config
    assert link is not None
    if is_dsql(patient.host):
        return ok("not asked: Aurora DSQL has room for every environment")
    if patient.request().pooled:
        return _of_pooler(patient)
    link.driver_connection.rollback()  # the cursor's transaction, if there is one
    timer = _timer(patient)
    ends = (
        f"the server ends connections that are idle for {duration(timer)}"
        if timer
        else "the server never ends idle connections"
    )
    facts: dict[str, Any] = {"keep_below": config.keep_below, "session_idle": timer}
    try:
        count, limit = link.sessions(max(patient.within(config.ping_timeout).left(), 0.001))
    except Exception as error:  # noqa: BLE001 - whatever the driver raises is to be reported
        mend = "keep_below has no effect if the user may not ask: let it read pg_stat_database, or set keep_below=1."
        return warning(
            f"the server does not say how many connections it has ({of_error(error)}); {ends}", mend, **facts
        )
    facts |= {"connections": count, "limit": limit}
    detail = (
        f"{count} of {limit} connections, frozen environments keep theirs up to {config.keep_below:g} of that; {ends}"
    )
    if config.keep_below and not keep(count, limit, config.keep_below):
        mend = (
            "The server is so full that no frozen environment keeps its connection, and each invocation logs in. Find "
            "out who holds the connections (lambda-pool top), and what to set (lambda-pool plan --running)."
        )
        return warning(detail, mend, **facts)
    return ok(detail, **facts)


def _timer(patient: Patient) -> float:
    """Seconds after which the server ends an idle session; 0 if it never does, or has no such timer."""
    assert patient.link is not None
    with patient.cursor() as cursor:
        cursor.execute(_TIMER[patient.engine])
        row = cursor.fetchone()
    patient.link.driver_connection.rollback()
    return float(row[0]) if row else 0.0


def _of_pooler(patient: Patient) -> Finding:
    """Pools do not ask a pooler; its console says how many clients it takes, to users who may ask."""
    if patient.endpoint.proxy:
        return ok("not asked: an RDS Proxy shares its connections")
    if patient.engine != "postgresql":
        return ok("not asked: the pooler shares its connections")
    most = _max_client_conn(patient)
    need = "max_client_conn must be at least the number of environments, or the pooler refuses some"
    if most is None:
        return ok(f"not asked: the pooler shares its connections. In PgBouncer, {need}")
    detail = f"the pooler accepts {most} clients (max_client_conn)"
    if most < _MOST_ENVIRONMENTS:
        return warning(detail, f"Raise it: {need}.", max_client_conn=most)
    return ok(detail, max_client_conn=most)


def _max_client_conn(patient: Patient) -> int | None:
    """PgBouncer's setting, from its console; None if it cannot be read there."""
    request = patient.request().replace(database="pgbouncer", autocommit=True)
    try:
        link = patient.pool.connector.engine.connect(request)
    except Exception:  # noqa: BLE001 - it is another pooler, or this user may not ask
        return None
    try:
        from psycopg import ClientCursor
        from psycopg.rows import tuple_row

        with ClientCursor(link.driver_connection, row_factory=tuple_row) as cursor:
            rows = cursor.execute("SHOW CONFIG").fetchall()
        return next((int(row[1]) for row in rows if row[0] == "max_client_conn"), None)
    except Exception:  # noqa: BLE001
        return None
    finally:
        link.close(1.0)
