"""The audit trail's upkeep: what is too old goes, and a database that is away hinders no operator."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest

from app.domain.errors import Unavailable
from app.services.audit_service import FORGET_EVERY_SECONDS, PAGE, AuditService
from tests.support.fakes import FakeClock


class Trail:
    """The store, with so many entries that are too old."""

    def __init__(self, old: int) -> None:
        self.old, self.asked = old, 0

    async def forget_audit(self, *, keep_seconds: float, limit: int) -> int:
        assert keep_seconds == 30 * 86400
        self.asked += 1
        gone = min(self.old, limit)
        self.old -= gone
        return gone

    async def note_change(self, *_args: object, **_more: object) -> None:
        raise Unavailable("database", "away")


async def test_old_entries_go_page_by_page_and_then_it_rests_for_an_hour() -> None:
    trail, clock = Trail(PAGE + 1), FakeClock()
    service = AuditService(cast(Any, None), cast(Any, trail), keep_days=30, clock=clock)
    assert [await service.forget(), await service.forget(), await service.forget()] == [True, False, False]
    assert (trail.old, trail.asked) == (0, 2)
    clock.advance(FORGET_EVERY_SECONDS)
    await service.forget()
    assert trail.asked == 3


async def test_for_ever_asks_for_nothing() -> None:
    trail = Trail(5)
    assert not await AuditService(cast(Any, None), cast(Any, trail), keep_days=0).forget()
    assert trail.asked == 0


async def test_a_circuit_can_be_forced_while_the_database_is_away(caplog: pytest.LogCaptureFixture) -> None:
    service = AuditService(cast(Any, None), cast(Any, Trail(0)), keep_days=30)
    with caplog.at_level(logging.WARNING):
        await service.note_breaker("supabase", {"state": {"old": "closed", "new": "open, forced"}})
    assert "not in the audit trail" in caplog.text
