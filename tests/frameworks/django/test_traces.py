"""What traces show of Django's statements."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.db import transaction
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.instrumentation.pymysql import PyMySQLInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id

from tests.contract.conftest import Database
from tests.frameworks.django.conftest import Statements, Use, names, request_ends
from tests.frameworks.django.shop.models import Order


@pytest.fixture
def spans(database: Database) -> Iterator[InMemorySpanExporter]:
    """The spans of the driver's instrumentor, which is switched on."""
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    instrumentor: Any = PsycopgInstrumentor() if database.engine == "postgresql" else PyMySQLInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    yield memory
    instrumentor.uninstrument()


def test_each_statement_has_its_span_and_names_it(use: Use, database: Database, spans: InMemorySpanExporter) -> None:
    use(trace_comment=True)
    Order.objects.count()
    request_ends()
    spans.clear()
    with Statements(database) as sent:
        with transaction.atomic():
            Order.objects.create(name="a-parameter")
        assert Order.objects.filter(name="a-parameter").count() == 1
        request_ends()
    # The others are of the driver's own connection by which `Statements` marks the log.
    found = [
        span for span in spans.get_finished_spans() if "shop_order" in str((span.attributes or {})["db.statement"])
    ]
    assert [span.name.lower() for span in found] == ["insert", "select"]
    said = [text for text in sent.seen if text.startswith(("insert", "select"))]
    for span, text in zip(found, said, strict=True):
        assert span.context is not None
        assert format_span_id(span.context.span_id) in text
    assert "a-parameter" not in "".join(span.to_json() for span in found)
    assert names(database) == ["a-parameter"]
