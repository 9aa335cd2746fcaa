"""Runs durable functions with the SDK's own test runner."""

import gc
import logging
import warnings
from collections.abc import Callable
from typing import Any

from aws_durable_execution_sdk_python_testing.runner import DurableFunctionTestRunner


def run_durable(handler: Callable[..., Any], event: str = "{}") -> Any:
    """Run a durable function to its end."""
    # The runner leaves its event loop unclosed, which is not for a later test to be told: it is thrown away here, and
    # so no record of a log may hold an error's frames.
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with DurableFunctionTestRunner(handler, execution_timeout=60) as runner:
                result = runner.run(input=event)
            del runner
            gc.collect()
    finally:
        logging.disable(logging.NOTSET)
    return result
