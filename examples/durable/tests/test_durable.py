"""Runs on the SDK's own test runner, which skips the day of waiting."""

import os
import subprocess
import sys


def test_the_order_is_saved_and_settled(database, folder):
    environment = {**os.environ, "LAMBDA_POOL_URL": database.url, "AWS_DEFAULT_REGION": "eu-west-1"}
    done = subprocess.run(
        [sys.executable, "run.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'SUCCEEDED: "order-1"' in done.stdout
    assert database.execute("select message, article, settled from orders") == [("order-1", "tea", True)]
