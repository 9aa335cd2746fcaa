"""`lambda-pool doctor`: the way to the database, step by step, with what went wrong and how to fix it.

Inside a Lambda function, return `lambda_pool.cli.doctor.diagnose()` from a handler.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from lambda_pool import ConfigError, CredentialsError, LambdaPoolError
from lambda_pool import config as configuration
from lambda_pool.api import Pool, core_of, default_pool
from lambda_pool.aws.environment import access_keys
from lambda_pool.cli.arguments import seconds
from lambda_pool.cli.database import add_database, flag, pool_of
from lambda_pool.cli.doctor.checks import CHECKS, Patient
from lambda_pool.cli.doctor.report import (
    Finding,
    Redactor,
    Report,
    Step,
    failed,
    ok,
    render,
    report,
    step,
    warning,
)
from lambda_pool.cli.doctor.words import of_auth, of_endpoint, of_error
from lambda_pool.cli.terminal import Progress, Terminal, complain, duration
from lambda_pool.endpoints.base import Role
from lambda_pool.invocation import time_out
from lambda_pool.pool import ConnectionPool

if TYPE_CHECKING:
    from lambda_pool import AsyncPool

_TIMEOUT = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add_database(parser, "URL of the database, used with the options below (default: all from the environment)")
    add("--auth", choices=("url", "iam", "secret"), help="with a URL: the same as LAMBDA_POOL_AUTH")
    add("--secret-id", metavar="NAME", help="with a URL: the same as LAMBDA_POOL_SECRET_ID")
    add("--rds-proxy", metavar="NAME", help="with a URL: the same as LAMBDA_POOL_RDS_PROXY")
    add("--aurora-cluster", metavar="ID", help="with a URL: the same as LAMBDA_POOL_AURORA_CLUSTER")
    add("--readonly", action="store_true", help="check the reader, which does not have to accept writes")
    add(
        "--timeout",
        type=seconds,
        default=_TIMEOUT,
        metavar="SECONDS",
        help=f"time for all steps together (default: {_TIMEOUT:.0f})",
    )
    add("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Examine, print, and return 0 if all is well, 1 if a step failed, 2 if the configuration did."""
    given = {
        name: value
        for name in ("auth", "secret_id", "rds_proxy", "aurora_cluster")
        if (value := getattr(args, name)) is not None
    }
    if args.url is None and given:
        typed = ", ".join(map(flag, given))
        variables = ", ".join(f"{args.prefix}{name.upper()}" for name in given)
        return complain("doctor", f"{typed} needs --url; without it, set {variables} in the environment")

    with Progress() as waiting:
        found = _examine(
            lambda: core_of(pool_of(args.url, args.prefix, given)),
            readonly=args.readonly,
            timeout=args.timeout,
            begin=waiting,
        )
    print(json.dumps(found, indent=2) if args.json else render(found, Terminal(sys.stdout)))
    return found["exit_code"]


def diagnose(
    pool: Pool | AsyncPool | str | None = None, *, readonly: bool = False, timeout: float = _TIMEOUT
) -> Report:
    """Examine the way to the database as the pool would go it, on a separate connection.

    In: a pool (also an AsyncPool), a URL, or None for the pool that the environment describes; whether to check the
    reader; seconds for everything, which inside a decorated handler are at most what the invocation has left. Out: a
    report of texts, numbers, lists and dictionaries, without any secret. Raises nothing: the report tells what goes
    wrong.
    """

    def make() -> ConnectionPool:
        configuration.seconds("timeout", timeout)
        if isinstance(pool, str):
            return core_of(pool_of(pool, configuration.DEFAULT_PREFIX))
        core = getattr(default_pool() if pool is None else pool, "_core", None)
        if not isinstance(core, ConnectionPool):
            raise ConfigError(f"pool is not valid: it must be a Pool, an AsyncPool or a URL, not {type(pool).__name__}")
        if core.awaited:  # the steps run one after the other, and await nothing
            engine = type(core.connector.engine)()
            return ConnectionPool(core.config, engine, core.connector.auth, core.connector.endpoint)
        return core

    return _examine(make, readonly=readonly, timeout=timeout)


def _examine(
    make: Callable[[], ConnectionPool],
    *,
    readonly: bool,
    timeout: float,
    begin: Callable[[str], None] = lambda name: None,
) -> Report:
    """`begin` is told the name of each step."""
    redactor = Redactor()
    start = time.monotonic()
    with suppress(CredentialsError):  # one of the keys is missing: the step that needs them says so
        keys = access_keys()
        if keys is not None:
            redactor.add(keys.secret_key, keys.session_token)
    try:
        pool = make()
    except LambdaPoolError as error:
        rest = [_skipped(name, "config", redactor) for name, _, _ in CHECKS]
        return report("", [step("config", failed(of_error(error)), time.monotonic() - start, redactor), *rest])
    url = pool.config.url
    redactor.add(url.password, url.sslpassword)
    redactor.spare(pool.name, url.engine, url.user, url.hostaddr, url.database)
    for address in url.addresses:
        redactor.spare(*address)
    steps = [step("config", _describe(pool), time.monotonic() - start, redactor)]
    role = Role.READER if readonly else Role.WRITER
    patient = Patient(pool, role, start + timeout, redactor)
    try:
        _examine_each(patient, steps, begin)
    finally:
        if patient.link is not None:
            patient.link.close(1.0)
    return report(pool.name, steps)


def _examine_each(patient: Patient, steps: list[Step], begin: Callable[[str], None]) -> None:
    missing: dict[str, str] = {}
    for name, check, needs in CHECKS:
        lacks = next((missing[need] for need in needs if need in missing), None)
        if lacks is not None:
            missing[name] = lacks
            steps.append(_skipped(name, lacks, patient.redactor))
            continue
        begin(name)
        start = time.monotonic()
        try:
            finding = check(patient)
        except LambdaPoolError as error:  # its text says what to do
            finding = failed(of_error(error))
        except Exception as error:  # noqa: BLE001 - a step that breaks is one more thing to report
            finding = failed(f"this was not expected ({type(error).__name__}): {of_error(error)}")
        if finding.status == "failed":
            missing[name] = name
        steps.append(step(name, finding, time.monotonic() - start, patient.redactor))


def _skipped(name: str, lacks: str, redactor: Redactor) -> Step:
    return step(name, Finding("skipped", f"not without {lacks}"), 0.0, redactor)


def _describe(pool: ConnectionPool) -> Finding:
    """The configuration, without values that may be secret."""
    url = pool.config.url
    where = ",".join(f"{host or url.hostaddr}{f':{port}' if port else ''}" for host, port in url.addresses)
    shown = f"{url.engine}://{f'{url.user}@' if url.user else ''}{where}/{url.database}"
    auth, source = pool.connector.auth, pool.connector.endpoint
    facts = {
        "engine": url.engine,
        "url": shown,
        "auth": of_auth(auth),
        "endpoint": of_endpoint(source),
        "sslmode": url.sslmode,
        "sslrootcert": url.sslrootcert,
        "sslcert": url.sslcert,
        "pooled": url.pooled,
        "parameters": sorted(url.parameters),
        "connect_args": sorted(pool.config.connect_args),
    }
    detail = f"{shown}; login: {of_auth(auth)}; host: {of_endpoint(source)}"
    wake, longest = pool.config.wake_timeout, time_out()
    if wake > longest:
        mend = f"wake_timeout={wake:g} is longer than the function's timeout, {duration(longest)}: raise that above it."
        return warning(detail, mend, **facts)
    return ok(detail, **facts)
