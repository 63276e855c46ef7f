"""OpenTelemetry traces, when an exporter is configured; else nothing, at the price of one `if`.

    configure_tracing(version="1.2", instance="replica-1")     # looks at OTEL_EXPORTER_OTLP_ENDPOINT, as every SDK does
    with span("webhook"): carrier = outgoing()                 # travels with the event
    with span("handle", parent=carrier, kind="message"): ...   # on whichever replica handles it

Needs the extra `tracing`. Attributes hold no ids of people, no texts: kinds, outcomes, digests. A value that is not a
code is replaced, as on a log line (`core/log_fields.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from opentelemetry import propagate, trace

from app.core.errors import SettingsError
from app.core.log_fields import code_or_dropped

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_tracer = trace.get_tracer("chorus")
_enabled = False
_NO_SPAN: AbstractContextManager[None] = nullcontext()


def configure_tracing(*, version: str, instance: str) -> bool:
    """Export spans in the background if an endpoint is set. Raises `SettingsError` if the SDK is not installed."""
    endpoint = next((name for name in ENDPOINTS if os.environ.get(name)), None)
    if endpoint is None:
        return False
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  only with the extra `tracing`
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  only with the extra `tracing`
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  only with the extra `tracing`
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415  only with the extra `tracing`
    except ImportError:
        raise SettingsError(
            {endpoint: "is set, but the exporter is missing: pip install 'chorus-bot[tracing]'"}
        ) from None
    about = {"service.name": "chorus", "service.version": version, "service.instance.id": instance}
    provider = TracerProvider(resource=Resource.create(about))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    enable()
    return True


def enable() -> None:
    """Spans go to whatever provider is set."""
    global _enabled  # noqa: PLW0603  one for the process
    _enabled = True


def is_on() -> bool:
    return _enabled


def span(
    name: str, *, parent: Mapping[str, str] | None = None, **attributes: str | int
) -> AbstractContextManager[None]:
    """A span around the block; an error that leaves it is recorded by its type, never by its text."""
    return _recorded(name, parent, attributes) if _enabled else _NO_SPAN


@contextmanager
def _recorded(name: str, parent: Mapping[str, str] | None, attributes: Mapping[str, str | int]) -> Iterator[None]:
    context = propagate.extract(parent) if parent else None
    attributes = {key: value if isinstance(value, int) else code_or_dropped(value) for key, value in attributes.items()}
    with _tracer.start_as_current_span(
        name, context=context, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as current:
        try:
            yield
        except BaseException as exc:
            current.set_status(trace.StatusCode.ERROR, type(exc).__name__)
            raise


def outgoing() -> dict[str, str] | None:
    """What another replica needs to go on with the current trace."""
    if not _enabled:
        return None
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier or None
