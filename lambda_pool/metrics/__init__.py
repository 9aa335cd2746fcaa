"""Observers that turn a pool's events into metrics and traces. Each is loaded when it is first named."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cloudwatch import PutMetrics
    from .emf import EmfMetrics
    from .otel import OtelMetrics
    from .powertools import PowertoolsMetrics
    from .traces import OtelTraces

_HOMES = {
    "EmfMetrics": "emf",
    "OtelMetrics": "otel",
    "OtelTraces": "traces",
    "PowertoolsMetrics": "powertools",
    "PutMetrics": "cloudwatch",
}

__all__ = ["EmfMetrics", "OtelMetrics", "OtelTraces", "PowertoolsMetrics", "PutMetrics"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{home}", __name__), name)
