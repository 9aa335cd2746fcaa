"""A comment at the end of a statement that says in which trace it runs, as sqlcommenter writes it.

Imported only with `trace_comment`. Of the trace only its `traceparent` is said, which is hexadecimal digits: what else
a caller may have put into it does not get into SQL.
"""

from typing import Any

from ..errors import ConfigError

try:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:
    raise ConfigError("opentelemetry-api is not installed: pip install 'lambda-pool[otel]'") from None

_KEY = "traceparent"
_propagator = TraceContextTextMapPropagator()


def comment() -> str:
    """The comment, with a blank before it; empty where no trace is current."""
    found: dict[str, str] = {}
    _propagator.inject(found)
    return f" /*{_KEY}='{found[_KEY]}'*/" if found else ""


def with_comment(statement: Any) -> Any:
    """The statement (text or bytes) and the comment, before its semicolon; as it is where it has one already."""
    # Each encoding of bytes that a server takes has ASCII in it.
    text = statement if isinstance(statement, str) else statement.decode("latin1")
    said = "" if f"{_KEY}=" in text else comment()
    if not said:
        return statement
    end = len(text.rstrip("; \t\r\n"))
    return statement[:end] + (said if isinstance(statement, str) else said.encode()) + statement[end:]
