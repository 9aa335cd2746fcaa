"""Runs the function with the SDK's own test runner: Lambda's emulator does not support durable functions."""

import json
import warnings
from pathlib import Path

from app import handler, orders
from aws_durable_execution_sdk_python_testing.runner import DurableFunctionTestRunner

event = (Path(__file__).parent / "events" / "1-Function-order.json").read_text()
print(f"send events/1-Function-order.json: {json.loads(event)}")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", ResourceWarning)  # the runner leaves its event loop open
    with DurableFunctionTestRunner(handler, execution_timeout=60) as runner:
        result = runner.run(input=event)
print(f"    {result.status.value}: {result.result}")
with orders.connection() as conn:
    saved = conn.execute("select message, article, settled from orders").fetchall()
print(f"    saved: {saved}")
raise SystemExit(0 if result.status.value == "SUCCEEDED" else 1)
