"""The ledger's doors that use a connection in threads, which may outlive the handler."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from tests.faults.chaos.call import ENDED, POSTGRES, Call, OwnError, said_by, sql
from tests.faults.chaos.pools import POOL, WIDE

SLEEP = "select pg_sleep(2)" if POSTGRES else "select sleep(2)"
LAST_MOMENT = 150
"""Milliseconds before the deadline at which a handler here stops waiting."""


@POOL.handler
def thread_writes_door(call: Call, context: Any, conn: Any) -> None:
    """The handler's connection, used by a thread that is waited for."""
    with ThreadPoolExecutor(1) as threads:
        threads.submit(call.write, conn).result()


def thread_at_work_door(call: Call, context: Any) -> None:
    """The handler's connection, at work in a thread when the handler ends."""

    def late(conn: Any) -> None:
        with suppress(Exception):
            sql(conn, SLEEP)

    @POOL.handler
    def door(call: Call, context: Any, conn: Any) -> None:
        call.write(conn)
        thread = threading.Thread(target=late, args=(conn,), daemon=True)
        call.threads.append(thread)
        thread.start()
        if not _is_at_work(thread, context):
            raise OwnError("no time left to wait for the thread")
        call.undone = True

    with call.told_by_its_end():
        door(call, context)


def _is_at_work(thread: threading.Thread, context: Any) -> bool:
    """Wait until it waits in the driver, where it is at the same instruction each time, or until it has ended.

    False if there is no time for that.
    """
    seen: list[tuple[object, int]] = []
    while context.get_remaining_time_in_millis() > LAST_MOMENT:
        time.sleep(0.005)
        frame = sys._current_frames().get(thread.ident or 0)
        if frame is None:
            return True
        seen.append((frame.f_code, frame.f_lasti))
        inside = frame.f_code.co_filename not in {__file__, threading.__file__}
        if inside and len(seen) > 3 and len(set(seen[-4:])) == 1:
            return True
    return False


def thread_outlives_door(call: Call, context: Any) -> None:
    """A thread with a connection of its own, which may or may not have committed when the handler ends."""
    written = threading.Event()
    said = "failed"
    problem: BaseException | None = None

    def work() -> None:
        nonlocal said, problem
        try:
            with WIDE.connection() as conn:
                call.write(conn)
                written.set()
            said = "acknowledged"
        except BaseException as error:
            said, problem = said_by(error), error
        finally:
            written.set()

    @POOL.handler
    def door(call: Call, context: Any) -> None:
        thread = threading.Thread(target=work, daemon=True)
        call.threads.append(thread)
        thread.start()
        written.wait(5.0)
        if problem is not None:
            raise problem
        call.undone = True

    try:
        door(call, context)
    except BaseException as error:
        # Its caller hears what the handler itself reports; before the handler's end, what the thread reports.
        call.told(said_by(error) if call.undone else said)
        raise
    else:
        call.threads[0].join(ENDED)  # it may learn only now what became of its COMMIT
        call.told(said)
        if said != "acknowledged" and not call.held_until:
            call.found = f"the handler ended well, and its thread's work is lost: {problem}"
    finally:
        problem = None
