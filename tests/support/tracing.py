"""OpenTelemetry with an exporter that keeps the spans in memory."""

from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode


class Tracing:
    """A separate provider, and the spans that it received."""

    def __init__(self) -> None:
        self.memory = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.memory))
        self.tracer = self.provider.get_tracer("test")

    def spans(self, name: str) -> list[Any]:
        """The spans with one name."""
        return [span for span in self.memory.get_finished_spans() if span.name == name]

    def taken(self) -> list[Any]:
        """All spans so far; they are then forgotten."""
        spans = list(self.memory.get_finished_spans())
        self.memory.clear()
        return spans

    def said(self) -> list[tuple[str, dict[str, Any], StatusCode]]:
        """The same, as name, attributes and status of each."""
        return [(span.name, dict(span.attributes), span.status.status_code) for span in self.taken()]
