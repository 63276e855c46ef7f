"""Staying below an upstream's rate limits before it has to say no, for the whole fleet together.

    wait = await pacer.ask("number", "peer")       # seconds; 0.0: go, this message is counted
    wait = await pacer.hold("number", "peer")      # the upstream said "too fast" all the same: 4^n seconds of silence

Two limits at once, each with a burst: per number, and per pair of number and peer. What it does not do: wait, queue, or
insist: while Redis is away it lets everything pass, and the upstream's own answer decides.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from app.core.redis import Redis, RedisError, Script

logger = logging.getLogger(__name__)

FORGET_HOLD_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Limit:
    """One message per `interval_seconds` in the long run, `burst` at once."""

    interval_seconds: float
    burst: int


class Pacer:
    def __init__(self, redis: Redis, *, namespace: str, per_number: Limit, per_pair: Limit) -> None:
        self._redis = redis
        self._namespace = namespace
        self._script = Script("pace")
        self._limits = [
            value for limit in (per_number, per_pair) for value in (round(limit.interval_seconds * 1e6), limit.burst)
        ]

    async def ask(self, number: str, peer: str) -> float:
        """Seconds until a message may go out; 0.0 counts it as going out now."""
        return await self._run("ask", number, peer)

    async def hold(self, number: str, peer: str) -> float:
        """Nothing to this peer for 4^n seconds, n growing with each call until an hour passes without one. Returns
        the seconds, the first step if Redis is away."""
        return await self._run("hold", number, peer) or 4.0

    async def _run(self, verb: str, number: str, peer: str) -> float:
        prefix = f"{self._namespace}:{{pace:{number}}}:"
        try:
            micros = await self._script(self._redis, [prefix], [verb, peer, *self._limits, FORGET_HOLD_SECONDS])
        except (RedisError, OSError) as exc:
            logger.warning("not paced", extra={"reason": str(exc)})
            return 0.0
        return float(micros) / 1e6
