"""Does the Redis namespace belong to this database? Asked by the check-up, and by `chorus serve` before it starts."""

from __future__ import annotations

from contextlib import AsyncExitStack

from app.adapters.database_trouble import operator_policy
from app.core.errors import Unavailable
from app.doctor.findings import Finding, bounded
from app.domain.errors import ConfigurationError
from app.services.namespace_gate import MEND, contradiction, short
from app.settings import Settings
from app.wiring import open_bindings, open_door, open_store

SUBJECT = "redis namespace"
REDIS_TIMEOUT_SECONDS = 5.0
START_SECONDS = 5.0


async def check_namespace(settings: Settings, stack: AsyncExitStack) -> list[Finding]:
    """Binds nothing. No finding where one of the two cannot be asked: the other checks say why. Raises
    `ConfigurationError` for a setting that only the database could find wrong."""
    redis = open_door(settings.redis_url or "", stack, answer_seconds=REDIS_TIMEOUT_SECONDS)
    bindings = open_bindings(settings, stack, redis)
    store = await open_store(settings, policy=operator_policy())
    stack.push_async_callback(store.aclose)
    namespace, findings = settings.redis_namespace, []
    try:
        identity = await store.database_identity()
        for setting, binding in bindings.items():
            bound = await binding.read()
            if bound is not None and bound != identity:
                findings.append(Finding(SUBJECT, "bad", contradiction(namespace, setting, bound, identity), MEND))
    except Unavailable:
        return []
    if findings:
        return findings
    state = f"belongs to this database ({short(identity)})" if bound else "is free; the first start takes it"
    return [Finding(SUBJECT, "ok", f"{namespace} {state}")]


async def refuse_foreign_namespace(settings: Settings) -> None:
    """Two fleets with one namespace and different databases take each other's messages. What is away is not waited for:
    the replica looks again when it is back. Raises `ConfigurationError`."""
    async with AsyncExitStack() as stack:
        findings = await bounded(SUBJECT, lambda: check_namespace(settings, stack), seconds=START_SECONDS)
    for finding in findings:
        if finding.is_bad and finding.mend == MEND:
            raise ConfigurationError("REDIS_NAMESPACE", f"is not ours: {finding.detail}; {finding.mend}")
