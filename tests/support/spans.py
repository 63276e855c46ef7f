"""The spans that this process ends, in memory. A process has one provider of traces, for good."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.core import tracing

EXPORTER = InMemorySpanExporter()


@contextmanager
def exported_spans() -> Iterator[InMemorySpanExporter]:
    """Tracing is on meanwhile; what was exported before is forgotten."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
        trace.set_tracer_provider(provider)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing, "_enabled", False)
        tracing.enable()
        EXPORTER.clear()
        yield EXPORTER
