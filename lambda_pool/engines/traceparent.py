"""A comment at the end of a statement that says in which trace it runs, as sqlcommenter writes it.

Imported only with `trace_comment`. The comment holds only the trace's `traceparent`, which is hexadecimal digits:
nothing else that a caller may have put into the trace gets into SQL.
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
    """The comment, with a blank before it; empty if no trace is current."""
    found: dict[str, str] = {}
    _propagator.inject(found)
    return f" /*{_KEY}='{found[_KEY]}'*/" if found else ""


def with_comment(statement: Any) -> Any:
    """The statement (text or bytes) with the comment before its semicolon; unchanged if it has one already."""
    # Every encoding that a server takes includes ASCII, and only ASCII is looked for.
    text = statement if isinstance(statement, str) else statement.decode("latin1")
    said = "" if f"{_KEY}=" in text else comment()
    if not said:
        return statement
    end = len(text.rstrip("; \t\r\n"))
    return statement[:end] + (said if isinstance(statement, str) else said.encode()) + statement[end:]
