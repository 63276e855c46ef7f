"""Staying below an upstream's rate limits before it has to say no, for the whole fleet together.

    wait = await pacer.ask("number", "peer")       # seconds; 0.0: go, this message is counted
    wait = await pacer.hold("number", "peer")      # the upstream said "too fast" all the same: 4^n seconds of silence

Two limits at once, each with a burst: per number, and per pair of number and peer. While Redis does not answer, each
replica paces by itself, at its share of the same limits: the whole divided by the replicas that were alive when Redis
last answered. It knows what passed here before, not what the others sent, and Redis never learns of what passed
meanwhile: around the change up to a burst more than the limit may go out. What it does not do: wait, or queue.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.core.redis.door import Door
from app.core.redis.script import Script

logger = logging.getLogger(__name__)

PACE = Script("pace")
FORGET_HOLD_SECONDS = 3600.0
MAX_REMEMBERED = 20_000
"""Numbers, pairs and holds; with more at once the one that was used longest ago starts afresh."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One message per `interval_seconds` in the long run, `burst` at once."""

    interval_seconds: float
    burst: int


class Pacer:
    """`replicas`: how many share the limits while Redis does not answer."""

    def __init__(
        self,
        door: Door,
        *,
        namespace: str,
        per_number: Limit,
        per_pair: Limit,
        replicas: Callable[[], int] = lambda: 1,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._door = door
        self._namespace = namespace
        self._limits = [
            value for limit in (per_number, per_pair) for value in (round(limit.interval_seconds * 1e6), limit.burst)
        ]
        self._alone = LocalPacer(per_number=per_number, per_pair=per_pair, clock=clock)
        self._replicas = replicas
        self._is_alone = False

    async def ask(self, number: str, peer: str) -> float:
        """Seconds until a message may go out; 0.0 counts it as going out now."""
        wait = await self._run("ask", number, peer)
        if wait is None:
            return self._alone.ask(number, peer, share=max(1, self._replicas()))
        if wait == 0.0:
            self._alone.note(number, peer)
        return wait

    async def hold(self, number: str, peer: str) -> float:
        """Nothing to this peer for 4^n seconds, n growing with each call until an hour passes without one. Returns
        the seconds."""
        alone = self._alone.hold(number, peer)
        wait = await self._run("hold", number, peer)
        return alone if wait is None else wait

    async def forget(self, number: str, peers: Sequence[str]) -> None:
        """That anything went to these peers. Raises `Unavailable`."""
        if peers:
            prefix = f"{self._namespace}:{{pace:{number}}}:"
            await self._door.ask("DEL", *(f"{prefix}{kind}:{peer}" for peer in peers for kind in ("peer", "hold")))

    async def _run(self, verb: str, number: str, peer: str) -> float | None:
        """`None`: Redis did not answer."""
        prefix = f"{self._namespace}:{{pace:{number}}}:"
        args = [verb, peer, *self._limits, round(FORGET_HOLD_SECONDS)]
        try:
            micros = await self._door.run(PACE, [prefix], args)
        except Unavailable as exc:
            if not self._is_alone:
                logger.warning("pacing without Redis", extra={"reason": str(exc)})
            self._is_alone = True
            return None
        self._is_alone = False
        return float(micros) / 1e6


class LocalPacer:
    """The limits of `pace.lua` in this process (the same rules: GCRA)."""

    def __init__(self, *, per_number: Limit, per_pair: Limit, clock: Clock) -> None:
        self._per_number = per_number
        self._per_pair = per_pair
        self._clock = clock
        self._paid: OrderedDict[tuple[str, ...], float] = OrderedDict()
        """When the debt of a number, or of a number and a peer, is paid (monotonic)."""
        self._holds: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()
        """How often in a row, and until when (monotonic)."""

    def ask(self, number: str, peer: str, *, share: int) -> float:
        """As `Pacer.ask`, with one `share`-th of the limits."""
        now = self._clock.monotonic()
        limits = {(number,): self._per_number, (number, peer): self._per_pair}
        parts = {key: _part(limit, share) for key, limit in limits.items()}
        waits = [
            max(0.0, self._debt(key, now) - (part.burst - 1) * part.interval_seconds) for key, part in parts.items()
        ]
        wait = max(*waits, self._holds.get((number, peer), (0, 0.0))[1] - now)
        if wait > 0:
            return wait
        for key, part in parts.items():
            self._count(key, part, now)
        return 0.0

    def note(self, number: str, peer: str) -> None:
        """A message goes out that another pacer has let pass."""
        now = self._clock.monotonic()
        self._count((number,), self._per_number, now)
        self._count((number, peer), self._per_pair, now)

    def hold(self, number: str, peer: str) -> float:
        now = self._clock.monotonic()
        times, until = self._holds.pop((number, peer), (0, 0.0))
        times = times + 1 if now < until + FORGET_HOLD_SECONDS else 1
        wait = float(min(4**times, 3600))
        self._holds[number, peer] = (times, now + wait)
        _shorten(self._holds)
        return wait

    def _debt(self, key: tuple[str, ...], now: float) -> float:
        return max(0.0, self._paid.get(key, now) - now)

    def _count(self, key: tuple[str, ...], limit: Limit, now: float) -> None:
        self._paid[key] = now + self._debt(key, now) + limit.interval_seconds
        self._paid.move_to_end(key)
        _shorten(self._paid)


def _part(limit: Limit, share: int) -> Limit:
    return Limit(limit.interval_seconds * share, max(1, limit.burst // share))


def _shorten(remembered: OrderedDict[tuple[str, ...], float] | OrderedDict[tuple[str, str], tuple[int, float]]) -> None:
    if len(remembered) > MAX_REMEMBERED:
        remembered.popitem(last=False)
