"""Traces: nothing without an exporter, one trace from the webhook to the outside call with one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.core import tracing
from app.core.http_client import HttpError, close_http_client, request
from app.domain.webhook import Kind, WebhookEvent
from app.services.ingest_service import decode, encode, trace_carrier
from tests.support.spans import exported_spans


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    with exported_spans() as exporter:
        yield exporter


def an_event() -> WebhookEvent:
    return WebhookEvent("message:1:w", Kind.MESSAGE, "message:1:p", "1", {"message": {}})


def test_without_an_endpoint_there_are_no_traces_and_no_traces_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tracing.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert tracing.configure_tracing(version="1", instance="i") is False
    with tracing.span("webhook"):
        assert tracing.outgoing() is None
        assert trace_carrier(encode(an_event())) is None


async def test_one_trace_leads_from_the_webhook_over_the_queue_to_the_call(spans: InMemorySpanExporter) -> None:
    with tracing.span("webhook"):
        event = encode(an_event())
    assert decode(event).body == {"message": {}}
    with tracing.span("handle", parent=trace_carrier(event), kind="message"), pytest.raises(HttpError):
        await request("GET", "http://user:secret@127.0.0.1:1/secret-path?token=secret", timeout_seconds=1)
    await close_http_client()
    http, handle, webhook = sorted(spans.get_finished_spans(), key=lambda span: span.start_time, reverse=True)
    assert {span.context.trace_id for span in (webhook, handle, http)} == {webhook.context.trace_id}
    assert handle.parent.span_id == webhook.context.span_id
    assert http.parent.span_id == handle.context.span_id
    assert dict(http.attributes or {}) == {"method": "GET", "host": "127.0.0.1:1"}
    assert not http.events, "the text of an error may hold what nobody should read"
    assert http.status.status_code is trace.StatusCode.ERROR


def test_a_span_holds_codes_and_the_type_of_what_left_it(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError), tracing.span("handle", kind="message", outcome="Amina Smith", attempt=2):  # noqa: PT011  any text
        raise ValueError("Amina Smith")
    (told,) = spans.get_finished_spans()
    assert dict(told.attributes or {}) == {"kind": "message", "outcome": "[dropped]", "attempt": 2}
    assert not told.events
    assert told.status.description == "ValueError"
