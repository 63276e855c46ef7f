"""Faults that are rehearsed on purpose, where stand-ins take the place of WhatsApp and Gemini."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from app.domain.models import Json


class Fault(StrEnum):
    GEMINI_DOWN = "gemini_down"
    GEMINI_SLOW = "gemini_slow"
    GEMINI_QUOTA = "gemini_quota"
    WHATSAPP_DOWN = "whatsapp_down"
    WHATSAPP_SLOW = "whatsapp_slow"
    WHATSAPP_LOST = "whatsapp_lost"
    """Sends arrive, their answers do not."""
    TOKEN_REFUSED = "token_refused"


RULES: Mapping[Fault, Json] = {
    Fault.GEMINI_DOWN: {"target": "gemini", "gemini": "unavailable"},
    Fault.GEMINI_SLOW: {"target": "gemini", "latency_ms": 8000},
    Fault.GEMINI_QUOTA: {"target": "gemini", "gemini": "quota_per_minute", "retry_delay": "10s"},
    Fault.WHATSAPP_DOWN: {"target": "whatsapp", "http_status": 503},
    Fault.WHATSAPP_SLOW: {"target": "whatsapp", "latency_ms": 3000},
    Fault.WHATSAPP_LOST: {"target": "whatsapp", "action": "drop_after", "match": {"operation": "send"}},
    Fault.TOKEN_REFUSED: {"target": "whatsapp", "error": "190"},
}
"""What the sandbox calls them (docs/sandbox.md)."""


@dataclass(frozen=True, slots=True)
class RunningFault:
    """`fired`: how many calls it has hit."""

    fault: Fault
    fired: int


class FaultSwitch(Protocol):
    """The control of the stand-ins."""

    async def is_attached(self) -> bool:
        """Do stand-ins answer in the place of WhatsApp and Gemini?"""
        ...

    async def rules(self) -> Sequence[Json]:
        """Those that are there, as given, with `fired` and `is_over`. Raises `Unavailable`."""
        ...

    async def add(self, rule: Json) -> None:
        """Raises `Unavailable`."""
        ...

    async def clear(self) -> None:
        """Raises `Unavailable`."""
        ...


class Rehearsal:
    """Without a switch (in production there is none) nothing is attached."""

    def __init__(self, switch: FaultSwitch | None) -> None:
        self._switch = switch

    async def is_attached(self) -> bool:
        return self._switch is not None and await self._switch.is_attached()

    async def running(self) -> Sequence[RunningFault]:
        rules = await self._switch.rules() if self._switch else ()
        return [
            RunningFault(fault, int(rule["fired"]))
            for rule in rules
            if not rule["is_over"]
            for fault, wanted in RULES.items()
            if all(rule.get(name) == value for name, value in wanted.items())
        ]

    async def begin(self, fault: Fault, *, seconds: float) -> None:
        """In the place of what runs: two faults at once would hide each other. It ends by itself after `seconds`."""
        if self._switch:
            await self._switch.clear()
            await self._switch.add({**RULES[fault], "for_seconds": seconds})

    async def end(self) -> None:
        if self._switch:
            await self._switch.clear()
