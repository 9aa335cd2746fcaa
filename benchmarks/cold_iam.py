"""CPU time from process start to the first query: lambda_pool with IAM, against a bare driver with a ready-made token.

Both log in to the same servers, which check genuine tokens, over verified TLS. Prints medians in milliseconds and their
ratio to the bare driver's (goal with PostgreSQL: at most 1.15). Needs root, for PAM.
Run: .venv/bin/python -m benchmarks.cold_iam
"""

import os
import statistics
import subprocess
import sys
import time

from lambda_pool.aws.environment import AwsCredentials
from lambda_pool.auth.signature import sign
from lambda_pool.secret import Secret
from tests.support.iam_servers import REGION, IamServer, iam_mariadb, iam_postgres

ROUNDS = 25
KEYS = ("ASIAEXAMPLEKEY000001", "secret/key+example=1", "IQoJb3JpZ2luX2VjEA+/" * 38 + "==")

END = """
import sys, time
cpu = time.process_time()
assert row == (1,), row
assert not {"botocore", "boto3"} & set(sys.modules)
print(cpu)
"""
BARE = {
    "postgresql": """
import os, psycopg
conn = psycopg.connect(host="localhost", port=os.environ["PORT"], user="app", password=os.environ["TOKEN"],
                       dbname="postgres", sslmode="verify-full", sslrootcert=os.environ["CA"])
row = conn.execute("SELECT 1").fetchone()
""",
    "mysql": """
import os, ssl, pymysql
conn = pymysql.connect(host="localhost", port=int(os.environ["PORT"]), user="app", password=os.environ["TOKEN"],
                       database="app", ssl=ssl.create_default_context(cafile=os.environ["CA"]))
cursor = conn.cursor()
cursor.execute("SELECT 1")
row = cursor.fetchone()
""",
}
OURS = """
import os
from lambda_pool import IamToken, Pool
pool = Pool(os.environ["URL"], auth=IamToken())
with pool.connection() as conn:
    cursor = conn.cursor()
    cursor.execute("SELECT 1")
    row = cursor.fetchone()
"""


def environment(server: IamServer) -> dict[str, str]:
    """What Lambda gives, and what each program needs to know."""
    access_key, secret_key, session_token = KEYS
    server.checker.reset(access_key, secret_key, session_token)
    return {
        "PATH": os.defpath,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_SESSION_TOKEN": session_token,
        "URL": server.url(),
        "PORT": str(server.port),
        "CA": server.ca,
    }


def token(server: IamServer) -> str:
    """The ready-made password."""
    access_key, secret_key, session_token = KEYS
    credentials = AwsCredentials(access_key, Secret(secret_key), Secret(session_token))
    return sign(f"localhost:{server.port}", "app", REGION, credentials, time.time())


def milliseconds(program: str, env: dict[str, str]) -> float:
    """CPU time of one new process, user and system, up to the first row."""
    done = subprocess.run([sys.executable, "-c", program + END], env=env, capture_output=True, text=True, check=True)
    return float(done.stdout) * 1e3


def compare(server: IamServer) -> None:
    env = environment(server)
    programs = {
        "bare driver, ready-made token": (BARE[server.scheme], env),
        "lambda_pool, IamToken": (OURS, env),
        "the same, on Lambda (metrics on)": (OURS, {**env, "AWS_LAMBDA_FUNCTION_NAME": "benchmark"}),
    }
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(ROUNDS + 1):
        # Turn by turn, so that a noisy moment of the machine meets all.
        for name, (program, variables) in programs.items():
            spent = milliseconds(program, {**variables, "TOKEN": token(server)})
            if number:  # the first round warms the disk cache
                times[name].append(spent)
    print(f"{server.scheme}: CPU time from process start to the first row, median of {ROUNDS} runs")
    base = statistics.median(next(iter(times.values())))
    for name, column in times.items():
        median = statistics.median(column)
        print(f"  {name:32s}  {median:6.1f} ms   ratio {median / base:.2f}")


def main() -> None:
    for opened in (iam_postgres, iam_mariadb):
        with opened() as server:
            compare(server)


if __name__ == "__main__":
    main()
