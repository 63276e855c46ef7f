"""What keeps answers from going out or messages from coming in, as the fleet knows it: circuits, and silent numbers."""

from __future__ import annotations

from contextlib import AsyncExitStack

from app.core.circuit_breaker import CIRCUIT_BREAKERS
from app.core.errors import Unavailable
from app.core.fleet.registry import Registry
from app.doctor.findings import Finding
from app.services.arrivals import Arrivals
from app.services.stopped_answers import stopped_answers
from app.settings import Settings
from app.wiring import breaker_service, open_breakers, open_door, open_queue

REDIS_TIMEOUT_SECONDS = 5.0


async def check_answers(settings: Settings, stack: AsyncExitStack) -> list[Finding]:
    """No finding while Redis is away: its own check says so."""
    redis = open_door(settings.redis_url or "", stack, answer_seconds=REDIS_TIMEOUT_SECONDS)
    registry = Registry(redis, namespace=settings.redis_namespace, replica_id="doctor")
    fleet = open_breakers(settings, stack, registry)
    service = breaker_service(fleet, open_queue(settings, stack, redis))
    stack.push_async_callback(service.aclose)
    try:
        # Of the fleet: while Redis is away the service would answer for this process, which has no calls.
        await fleet.list(breaker.name for breaker in CIRCUIT_BREAKERS.values())
        reasons = await stopped_answers(service, Arrivals(redis, namespace=settings.redis_namespace))
    except Unavailable:
        return []
    if not reasons:
        return [Finding("answers", "ok", "no circuit is in trouble, and no number is silent")]
    return [Finding(subject, "warn", words, _runbook(subject)) for subject, words in reasons.items()]


def _runbook(subject: str) -> str:
    name = "ChorusNumberSilent" if subject.startswith("number ") else "ChorusCircuitOpen"
    return f"docs/runbooks/{name}.md"
