"""Runs durable functions with the SDK's own test runner."""

import asyncio
import gc
import logging
import warnings
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from aws_durable_execution_sdk_python_testing.runner import DurableFunctionTestRunner


def run_durable(handler: Callable[..., Any], event: str = "{}") -> Any:
    """Run a durable function to its end."""
    # The runner leaves its event loop open. A later test must not get the warning, so the loop is closed here. It is
    # thrown away, so that no record of a log may hold an error's frames.
    loops: list[asyncio.AbstractEventLoop] = []
    make = asyncio.new_event_loop

    def recorded() -> asyncio.AbstractEventLoop:
        loops.append(make())
        return loops[-1]

    logging.disable()
    try:
        with warnings.catch_warnings(), patch.object(asyncio, "new_event_loop", recorded):
            warnings.simplefilter("ignore")
            with DurableFunctionTestRunner(handler, execution_timeout=60) as runner:
                result = runner.run(input=event)
            del runner
            for loop in loops:
                if not loop.is_running():
                    loop.close()
            gc.collect()
    finally:
        logging.disable(logging.NOTSET)
    return result
