"""Meta's limits on sending: throughput of a number, pair rate to one user, the 24-hour window."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TypeVar

from app.core.clock import SYSTEM_CLOCK, Clock
from app.sandbox.config import Behaviour

MAX_TRACKED = 100_000
_ROUNDING_SECONDS = 1e-6

Pair = tuple[str, str]
K = TypeVar("K")
V = TypeVar("V")


class Limits:
    """Remembers at most `MAX_TRACKED` pairs and numbers, the least recently used go first."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._sends: OrderedDict[str, deque[float]] = OrderedDict()
        self._paid_until: OrderedDict[Pair, float] = OrderedDict()
        self._last_inbound: OrderedDict[Pair, float] = OrderedDict()

    def customer_wrote(self, phone_number_id: str, user: str, at: float) -> None:
        """`at` in Unix seconds. From now on the window of this customer is known."""
        _remember(self._last_inbound, (phone_number_id, user), at)

    def admit(self, phone_number_id: str, user: str, behaviour: Behaviour) -> str | None:
        """Count one send, or the error code that refuses it; a refused one costs nothing."""
        now = self._clock.monotonic()
        pair = (phone_number_id, user)
        if behaviour.window_hours and self._hours_since_inbound(pair) > behaviour.window_hours:
            return "131047"
        sends = self._sends.get(phone_number_id, deque())
        if behaviour.messages_per_second:
            while sends and now - sends[0] >= 1.0:
                sends.popleft()
            if len(sends) >= behaviour.messages_per_second:
                return "130429"
        if behaviour.pair_interval_seconds:
            paid_until = max(now, self._paid_until.get(pair, now)) + behaviour.pair_interval_seconds
            if paid_until - now > behaviour.pair_burst * behaviour.pair_interval_seconds + _ROUNDING_SECONDS:
                return "131056"
            _remember(self._paid_until, pair, paid_until)
        if behaviour.messages_per_second:
            sends.append(now)
            _remember(self._sends, phone_number_id, sends)
        return None

    def _hours_since_inbound(self, pair: Pair) -> float:
        """0 for a customer whose last message is not known."""
        at = self._last_inbound.get(pair)
        return 0.0 if at is None else (self._clock.now().timestamp() - at) / 3600

    def clear(self) -> None:
        self._sends.clear()
        self._paid_until.clear()
        self._last_inbound.clear()


def _remember(table: OrderedDict[K, V], key: K, value: V) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > MAX_TRACKED:
        table.popitem(last=False)
