"""A comment at the end of a statement that says in which trace it runs, as sqlcommenter writes it.

Imported only with `trace_comment`. Of the trace only its `traceparent` is said, which is hexadecimal digits: what else
a caller may have put into it does not get into SQL.
"""

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


def with_comment(statement: str) -> str:
    """The statement and the comment, before its semicolon; as it is where an instrumentor has said it before."""
    said = "" if f"{_KEY}=" in statement else comment()
    bare = statement.rstrip("; \t\r\n")
    return bare + said + statement[len(bare) :] if said else statement


def with_comment_in_bytes(statement: bytes) -> bytes:
    """The same for a statement in an encoding that has ASCII in it, as each does that a server takes."""
    return with_comment(statement.decode("latin1")).encode("latin1")
