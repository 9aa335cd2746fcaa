"""`handler`: for functions without HTTP, and around an adapter, it does what Django's request signals do."""

import functools
import inspect
import logging
from collections.abc import Callable
from os import getpid
from threading import get_ident
from typing import Any, TypeVar

from django.db import connections

from ..config import lambda_initialization, runtime_api
from ..decorator import decorate, is_lent
from ..errors import CommitUncertain, ConfigError, NotCommitted
from .wrapper import PooledWrapper

R = TypeVar("R")
log: logging.Logger = logging.getLogger("lambda_pool")

_amid: set[tuple[int, int]] = set()
"""The processes and threads that are inside of a decorated handler. A child of a fork is not."""


def handler(fn: Callable[..., R]) -> Callable[..., R]:
    """Decorate a Lambda handler that uses Django: deadline, clean-up, metrics. Its connections are Django's own.

    In: a function of (event, context), or an adapter such as `Mangum(application)`. When it ends, its connections go
    back to their pools; one that its caller uses inside of atomic(), as a TestCase does, stays the caller's. Raises
    ConfigError for what is no handler. The handler raises NotCommitted if it ended well and something was rolled back:
    it left a transaction open, or closed a connection inside of atomic(). In Lambda, calling it inside of atomic()
    raises ConfigError.
    """
    _check(fn)
    _open_ahead()

    def run(event: Any, context: Any) -> R:
        me = getpid(), get_ident()
        if me in _amid:  # another decorated handler calls this one: its transactions are open, and it does the rest
            return fn(event, context)
        callers = _in_callers_block()
        _give_back(callers)
        _forget_lost_answers()
        _forget_queries()
        try:
            _amid.add(me)
            result = fn(event, context)
        except BaseException:
            _give_back(callers)
            raise
        finally:
            _amid.discard(me)
        left_open = _give_back(callers)
        unsure = _forget_lost_answers()
        if unsure:
            raise CommitUncertain(
                f"the handler ended normally, but the answer to a statement on Django's {', '.join(unsure)} was lost, "
                "and the error was swallowed. The statement may or may not be saved: look before you write it again"
            )
        if left_open:
            raise NotCommitted(
                f"the handler ended normally with a transaction still open on Django's {', '.join(left_open)}, or its "
                "connection was closed inside of atomic(). The transaction was rolled back: none of it is saved. "
                "Commit it, or use transaction.atomic(), and call close() after it"
            )
        return result

    functools.update_wrapper(run, fn, updated=())
    # What it wraps may take any keyword, and would be given a connection.
    del run.__wrapped__  # type: ignore[attr-defined]
    decorated: Callable[..., R] = decorate(run, "conn", None)
    return decorated


def _check(fn: Any) -> None:
    if not callable(fn) or isinstance(fn, type):
        raise ConfigError(f"the handler must be a function or another callable, not {getattr(fn, '__name__', fn)!r}")
    name = getattr(fn, "__name__", type(fn).__name__)
    if inspect.iscoroutinefunction(fn) or inspect.isgeneratorfunction(fn):
        raise ConfigError(f"the handler {name} is 'async def' or holds a yield: Lambda calls plain functions only")
    if is_lent(inspect.unwrap(fn, stop=is_lent)):  # by another pool, which has looked at it
        return
    try:
        inspect.signature(fn).bind(None, None)
    except TypeError as error:
        raise ConfigError(
            f"the handler {name} must take only (event, context) ({error}): no connection is passed, because Django's "
            "models and django.db.connection have their own"
        ) from None
    except ValueError:  # one that is written in C
        pass


def _open_ahead() -> None:
    """In Lambda, make every pool during Init; under provisioned concurrency, nobody waits for the first connection."""
    initialization = lambda_initialization()
    for alias in connections if initialization else ():
        wrapper = connections[alias]
        if isinstance(wrapper, PooledWrapper) and initialization == "provisioned-concurrency":
            try:
                wrapper.ensure_connection()
                wrapper.close()
            except Exception as error:  # noqa: BLE001 - whatever it is, a later use may succeed
                log.warning("DATABASES[%r]: could not be warmed; the first use tries again: %s", alias, error)


def _in_callers_block() -> set[str]:
    """The aliases that whoever calls the handler uses inside of atomic(). Raises ConfigError in Lambda."""
    found = {
        wrapper.alias
        for wrapper in connections.all(initialized_only=True)
        if wrapper.in_atomic_block
        and (wrapper.has_borrowed() if isinstance(wrapper, PooledWrapper) else not wrapper.closed_in_transaction)
    }
    # An atomic() that was entered during the import never ends, and would save nothing of any invocation. A test has
    # no runtime API, but may well set Lambda's other variables.
    if found and runtime_api():
        raise ConfigError(
            f"the handler was called inside of atomic() on Django's {', '.join(map(repr, sorted(found)))}, whose end "
            "decides what is saved: enter atomic() in the handler"
        )
    return found


def _give_back(callers: set[str]) -> list[str]:
    """Give back what this thread has borrowed, except for `callers`, the aliases that the caller is using.

    Out: the aliases whose transaction was open, or was closed inside of atomic(), and is rolled back, if the option
    `unsaved` asks for an error.
    """
    left_open = []
    for wrapper in connections.all(initialized_only=True):
        if wrapper.alias in callers:
            continue
        if isinstance(wrapper, PooledWrapper) and (wrapper.is_in_transaction() or wrapper.closed_amid):
            if wrapper.home().core.config.unsaved == "raise":
                left_open.append(repr(wrapper.alias))
            elif not wrapper.closed_amid:  # that was reported already
                log.warning("Django's %r was left in a transaction, which is rolled back", wrapper.alias)
        if isinstance(wrapper, PooledWrapper):
            wrapper.forget_blocks()  # of an atomic() that never ends, or whose end is told below
            wrapper.close()
            wrapper.closed_amid = False
        else:
            wrapper.close_if_unusable_or_obsolete()
    return left_open


def _forget_lost_answers() -> list[str]:
    """Out: the aliases on which, since the last call, the answer to something that may be saved was lost."""
    found = []
    for wrapper in connections.all(initialized_only=True):
        if isinstance(wrapper, PooledWrapper) and wrapper.lost_an_answer:
            wrapper.lost_an_answer = False
            found.append(repr(wrapper.alias))
    return found


def _forget_queries() -> None:
    """Forget what earlier invocations asked, as Django does for each request, but not while assertNumQueries counts."""
    for wrapper in connections.all(initialized_only=True):
        if not wrapper.force_debug_cursor:
            wrapper.queries_log.clear()
