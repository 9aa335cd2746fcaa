"""SnapStart: nothing unique and nothing that ages goes into a snapshot from which a thousand environments start."""

import logging
from functools import cache

from ..events import Closing
from ..invocation import Deadline
from ..warming import warm
from . import gravest, pools, take_back

log: logging.Logger = logging.getLogger("lambda_pool")

_WARMING = 5.0
"""Seconds for warming all pools after a restore. Lambda allows 10 for the restore and all hooks, the function's too:
https://docs.aws.amazon.com/lambda/latest/dg/snapstart-runtime-hooks-python.html"""


@cache
def install() -> None:
    """Register the runtime's hooks, once for each process. They run under SnapStart only."""
    try:
        from snapshot_restore_py import (  # type: ignore[import-untyped]
            register_after_restore,
            register_before_snapshot,
        )
    except ImportError as error:
        log.warning(
            "SnapStart is on, but snapshot_restore_py is missing, which is part of Lambda's own Python runtime: "
            "connections will be found dead and replaced after each restore (%s)",
            error,
        )
        return
    register_before_snapshot(before_snapshot)
    register_after_restore(after_restore)


def before_snapshot() -> None:
    """Close every connection, also those that are lent, and forget every token, secret and address.

    If Init left work open, raises NotCommitted or CommitUncertain once all that is done.
    """
    problem = gravest(take_back(0.0, "Init phase"), failed=False)
    for pool in pools():
        pool.forget()
        pool.events.emit(Closing(pool.name))
    if problem is not None:
        raise problem


def after_restore() -> None:
    """Start a new generation, and open connections again if the user had called `warm()` before the snapshot."""
    deadline = Deadline(_WARMING)
    for pool in pools():
        pool.forget()
    cold = [pool for pool in pools() if pool.warmed]
    while cold:
        # Each gets an equal share of what is left, so a database that does not answer leaves time for the others.
        share = deadline.left() / len(cold)
        pool = cold.pop(0)
        warm(pool, Deadline(min(pool.config.timeout, share)))
