"""Stop calling what is down, notice when it is back.

    try:
        result = await gemini_circuit_breaker.call_async(call_gemini_api, endpoint, payload)
    except CircuitBreakerOpenError as exc:          # a kind of `Unavailable`; nothing was called
        retry_in = exc.retry_after                  # seconds

| state | a call is | leaves when |
|---|---|---|
| CLOSED | let through | `failure_threshold` failures in a row, or the upstream names a delay → OPEN |
| OPEN | refused at once | `open_seconds` have passed and a call comes → HALF_OPEN |
| HALF_OPEN | let through one at a time: a probe | `success_threshold` succeed → CLOSED; one fails → OPEN, for longer |

1. Every state has an epoch, one higher with each change. A call remembers the epoch in which it began; a result that
   comes back in another one is late and changes nothing.
2. An outcome is *ok* (it returned), *failed* (the dependency is at fault), or *ignored* (this request was bad, or it
   was cancelled). A caller of `run()` says which exception is which; `default_classify` is the cautious answer.
3. A probe holds a lease. Whatever ends the call returns it, cancellation included; a probe that never ends loses it
   after `probe_lease_seconds`, and its result is then late.
4. OPEN lasts `open_seconds` the first time. Each failed probe doubles it up to `max_open_seconds`, plus up to
   `jitter` of it at random, so that many breakers do not probe in step. A delay named by the upstream is taken
   instead, up to the same limit.
5. Forced states (`force_open`, `force_closed`) stay until `reset()`.
6. With `failure_rate` or `slow_call_seconds` in its policy a circuit also opens on a share of the calls in a window.

A circuit works alone, in its process; with `BreakerFleet.join` it follows the fleet: all replicas then have one state,
made by scripts in Redis (`core/lua/breaker_*.lua`) and applied locally. A closed or open circuit never waits for Redis,
a probe at most `FleetTimings.answer_seconds`, and while Redis is away the rules above hold on what this process sees.
The protocol, its defaults and what to leave alone: `docs/circuit-breaker.md`.

    rules     the states; every decision, pure      wire            the scripts' arguments and answers
    outcomes  what an exception says                fleet           a replica's exchange with the others
    local     what one process counts and grants    keyed           a circuit for each of many keys
    breaker   calls, probes, transitions            transition_log  each log line, once

Imports go one way: rules <- local <- breaker <- fleet.

What it does not do: bound a call in time, retry, or queue. It belongs to one event loop and takes no lock: between two
awaits nothing of it changes.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import REGISTRY

from app.core.circuit_breaker.breaker import CircuitBreaker
from app.core.circuit_breaker.collector import BreakerCollector
from app.core.circuit_breaker.fleet import BreakerFleet, FleetTimings
from app.core.circuit_breaker.keyed import KeyedCircuitBreakers
from app.core.circuit_breaker.outcomes import (
    FAILED,
    IGNORED,
    CircuitBreakerOpenError,
    Classify,
    Verdict,
    default_classify,
)
from app.core.circuit_breaker.rules import BreakerPolicy, Snapshot, State, View

__all__ = [
    "CIRCUIT_BREAKERS", "FAILED", "IGNORED", "KEYED_CIRCUIT_BREAKERS", "BreakerCollector", "BreakerFleet",
    "BreakerPolicy", "CircuitBreaker", "CircuitBreakerOpenError", "Classify", "FleetTimings",
    "KeyedCircuitBreakers", "Snapshot", "State", "Verdict", "View", "default_classify", "gemini_circuit_breaker",
    "gemini_model_breakers", "get_all_circuit_breakers", "supabase_circuit_breaker", "whatsapp_account_breakers",
    "whatsapp_circuit_breaker", "whatsapp_media_breakers",
]  # fmt: skip

# A lease outlives the adapter's attempt timeout by a third: a probe that only hangs is settled, not forgotten.
# Half of the calls failing, or four fifths taking most of the attempt timeout, is an outage without a row of failures.
_GEMINI_POLICY = BreakerPolicy(5, 60.0, probe_lease_seconds=20.0, failure_rate=0.5, slow_call_seconds=12.0)
gemini_circuit_breaker = CircuitBreaker("gemini_api", _GEMINI_POLICY, dependency="gemini")
"""The default model with the default limits: what every account uses that has chosen nothing else."""
gemini_model_breakers = KeyedCircuitBreakers("gemini_api", _GEMINI_POLICY, dependency="gemini", max_keys=200)
"""What accounts have chosen themselves: another model, or longer answers. By the model's name."""
whatsapp_circuit_breaker = CircuitBreaker(
    "whatsapp_api",
    BreakerPolicy(3, 30.0, probe_lease_seconds=15.0, failure_rate=0.5, slow_call_seconds=8.0),
    dependency="whatsapp",
)
# The own database is looked at every half second while it is away, and one statement that it carries out proves it.
supabase_circuit_breaker = CircuitBreaker(
    "supabase",
    BreakerPolicy(
        5, 5.0, max_open_seconds=5.0, success_threshold=1, probe_lease_seconds=15.0, failure_rate=0.5,
        slow_call_seconds=5.0,
    ),
)  # fmt: skip
whatsapp_account_breakers = KeyedCircuitBreakers(
    "whatsapp_api", BreakerPolicy(3, 30.0, probe_lease_seconds=15.0, quorum=1), dependency="whatsapp"
)
"""One account's token or number. Meta answers the same to every replica: no quorum."""

whatsapp_media_breakers = KeyedCircuitBreakers(
    "whatsapp_media",
    BreakerPolicy(5, 10.0, max_open_seconds=60.0, probe_lease_seconds=40.0, failure_rate=0.5),
    dependency="whatsapp_media",
    max_keys=10,
)
"""Where customers' files are fetched from. That host's trouble is not the sends'."""

CIRCUIT_BREAKERS: Mapping[str, CircuitBreaker] = {
    "gemini": gemini_circuit_breaker, "whatsapp": whatsapp_circuit_breaker, "supabase": supabase_circuit_breaker,
}  # fmt: skip
"""The service-wide ones by dependency, as `/health` names them."""

KEYED_CIRCUIT_BREAKERS = (whatsapp_account_breakers, gemini_model_breakers, whatsapp_media_breakers)


def get_all_circuit_breakers() -> dict[str, CircuitBreaker]:
    """Those of this process by name: the service-wide ones, and the keyed ones that have been used."""
    keyed = (breaker for family in KEYED_CIRCUIT_BREAKERS for breaker in family.breakers())
    return {breaker.name: breaker for breaker in (*CIRCUIT_BREAKERS.values(), *keyed)}


REGISTRY.register(BreakerCollector((*CIRCUIT_BREAKERS.values(), *KEYED_CIRCUIT_BREAKERS)))
