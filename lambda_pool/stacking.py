"""Refuses orders of decorators in which something is recorded as done that the transaction may still undo.

Other packages' decorators are known by the module that their functions were written in, so nothing is imported for it.
"""

import functools
import sys
from collections.abc import Iterator
from typing import Any

from .errors import ConfigError
from .signature import DURABLE_SDK, Signature, cells

_IDEMPOTENCY = "aws_lambda_powertools.utilities.idempotency"
_DEPTH = 3
"""How many functions deep a decorator's closure is searched for the one that does its work."""


def refuse(signature: Signature) -> None:
    """Raise ConfigError if a decorator below the pool's records the handler as done before COMMIT."""
    handler = signature.chain[-1]
    homes = [_home(fn) for layer in signature.chain[:-1] for fn in _functions(layer, handler, _DEPTH)]
    if any(_is_in(home, _IDEMPOTENCY) for home in homes):
        raise ConfigError(
            f"@idempotent is below the pool's decorator on {signature.name}: its store would say COMPLETED before "
            "COMMIT, and if COMMIT then fails, the retry is answered from the store although nothing was saved. Put "
            "@idempotent outermost, above @pool.handler"
        )
    if any(_is_in(home, DURABLE_SDK) for home in homes):
        raise refused_durable(signature.name)


def refused_durable(name: str) -> ConfigError:
    """The error for one connection, and so one transaction, around all steps of a durable function."""
    return ConfigError(
        f"the durable function {name} takes one connection for all its steps: when it suspends, the transaction is "
        "rolled back, although the steps in it are recorded as done. Put @pool.handler outermost, above "
        "@durable_execution, take no connection, and borrow with pool.connection() inside each step"
    )


class Attributes(dict[str, Any]):
    """The attributes of a decorated handler, which notice when it is made into a durable function.

    A decorator cannot see what is put above it later. But functools.wraps copies the attributes of what it wraps, and
    so asks for their names. At that moment, the SDK is looked for among the callers. A function that wraps the handler
    gets attributes of this kind too, so that a decorator in between hides nothing.
    """

    def __init__(self, attributes: dict[str, Any], name: str) -> None:
        super().__init__(attributes)
        self._name = name

    def __iter__(self) -> Iterator[str]:
        """As in any dictionary. Overriding it makes `dict.update` call `keys`."""
        return super().__iter__()

    def keys(self) -> Any:
        """The names. Raises ConfigError if a durable function asks for them."""
        copying = sys._getframe(1)
        caller = copying.f_back
        if caller is not None and _is_in(caller.f_globals.get("__name__", ""), DURABLE_SDK):
            raise refused_durable(self._name)
        if copying.f_code is functools.update_wrapper.__code__:
            around = copying.f_locals["wrapper"]
            around.__dict__ = Attributes({**around.__dict__, **dict(self.items())}, self._name)
        return super().keys()


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _home(fn: Any) -> str:
    """The module that a function was written in; after functools.wraps, `__module__` names another one."""
    return str(getattr(fn, "__globals__", {}).get("__name__", ""))


def _functions(layer: Any, handler: Any, depth: int) -> Iterator[Any]:
    """A decorator's functions, without the handler that it wraps and what that uses."""
    if layer is handler:
        return
    yield layer
    if depth > 1:
        for cell in cells(layer):
            if hasattr(cell.cell_contents, "__closure__"):
                yield from _functions(cell.cell_contents, handler, depth - 1)
