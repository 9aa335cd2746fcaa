"""From a process's start to its first row: CPU time, wall time and peak memory, with IAM over verified TLS.

The servers check genuine tokens through PAM, which needs root.
"""

import os
import subprocess
import sys
import time
from typing import Any, NamedTuple

from lambda_pool.auth.signature import sign
from lambda_pool.aws.environment import AwsCredentials
from lambda_pool.secret import Secret
from tests.support.iam_servers import RDS_HOST, REGION, IamServer, iam_mariadb, iam_postgres

from .cold_programs import BARE, END, IMPORTS, METRICS, NOTHING, OURS, PROGRAMS, SAMPLE
from .quota import Quota
from .rounds import figure, ratio, shuffled

NAME = "cold"
ROUNDS = 31
"""One start of the same program takes up to 15 % more than another: with 13 rounds, ratios came out 0.05 apart."""
IMPORT_ROUNDS = 9
SLOW_ROUNDS = 3
SHARE = 0.1
"""Of one core: what a function of 178 MB has."""
KEYS = ("ASIAEXAMPLEKEY000001", "secret/key+example=1", "IQoJb3JpZ2luX2VjEA+/" * 38 + "==")


class Start(NamedTuple):
    """One cold start: milliseconds of CPU and of wall time, MiB at the peak."""

    cpu: float
    wall: float
    memory: float


def start(program: str, env: dict[str, str], quota: Quota | None = None) -> Start:
    """Run a program to its first row in a new process."""
    began = time.monotonic()
    with subprocess.Popen(
        [*(quota.prefix if quota else ()), sys.executable, "-c", program + END],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        if quota is None:
            answer, complaint = process.communicate(timeout=120)
        else:
            with quota.watch(process.pid):
                answer, complaint = process.communicate(timeout=120)
    words = answer.split()[-4:]
    if process.returncode != 0 or len(words) != 4 or words[3] != "True":
        raise RuntimeError(f"a cold start failed: {answer}\n{complaint[-3000:]}")
    return Start(float(words[0]) * 1e3, (float(words[1]) - began) * 1e3, int(words[2]) / 1024)


def environment(server: IamServer) -> dict[str, str]:
    """The variables that Lambda sets, and those that each program needs."""
    access_key, secret_key, session_token = KEYS
    server.checker.reset(access_key, secret_key, session_token)
    return {
        "PATH": os.defpath,
        "HOME": "/nonexistent",
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_SESSION_TOKEN": session_token,
        "AWS_EC2_METADATA_DISABLED": "true",
        "URL": server.url(),
        "PORT": str(server.port),
        "DATABASE": server.server.database,
        "CA": server.ca,
        "RDS_HOST": RDS_HOST,
    }


def token(server: IamServer) -> str:
    """The ready-made password, an IAM token."""
    access_key, secret_key, session_token = KEYS
    credentials = AwsCredentials(access_key, Secret(secret_key), Secret(session_token))
    return sign(f"localhost:{server.port}", "app", REGION, credentials, time.time())


def compare(
    programs: dict[str, str], env: dict[str, str], rounds: int, base: str, quota: Quota | None = None
) -> dict[str, Any]:
    """Cold starts in turns; a first round, which warms the disk's cache, does not count."""
    found: dict[str, list[Start]] = {name: [] for name in programs}
    for number in range(-1 if quota is None else 0, rounds):
        for name in shuffled(list(programs)):
            variables = {**env, "AWS_LAMBDA_FUNCTION_NAME": "benchmark"} if name == METRICS else env
            began = start(programs[name], variables, quota)
            if number >= 0:
                found[name].append(began)
    columns = {
        name: {field: [getattr(each, field) for each in starts] for field in Start._fields}
        for name, starts in found.items()
    }
    return {
        name: {
            field: {"is": figure(column), "over_base": ratio(column, columns[base][field])}
            for field, column in fields.items()
        }
        | ({"cpu_over_sample": ratio(fields["cpu"], columns[SAMPLE]["cpu"])} if SAMPLE in columns else {})
        for name, fields in columns.items()
    }


def measure() -> dict[str, Any]:
    """Imports alone, then both engines at a full core and at a tenth."""
    found: dict[str, Any] = {"rounds": ROUNDS, "slow_rounds": SLOW_ROUNDS, "share": SHARE}
    found["imports"] = compare(IMPORTS, {"PATH": os.defpath}, IMPORT_ROUNDS, NOTHING)
    with Quota(SHARE) as quota:
        found["quota"] = quota.kind
        for opened in (iam_postgres, iam_mariadb):
            with opened() as server:
                env = environment(server) | {"TOKEN": token(server)}
                programs = PROGRAMS[server.scheme]
                found[server.scheme] = compare(programs, env, ROUNDS, BARE)
                slow = dict(programs)
                for name in ("psycopg_pool, boto3", "DBUtils, boto3"):
                    slow.pop(name, None)  # they come within a few percent of the sample, whose time is mostly boto3's
                env["TOKEN"] = token(server)
                found[f"{server.scheme} at a tenth"] = compare(slow, env, SLOW_ROUNDS, BARE, quota)
    return found


__all__ = ["BARE", "METRICS", "NAME", "OURS", "SAMPLE", "measure"]
