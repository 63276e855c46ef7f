"""Typing indicators: in the background, bounded, and given up at the first sign of trouble."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from app.domain.errors import Unavailable
from app.domain.models import Account
from app.services import courtesy
from app.services.courtesy import FIRST_PAUSE_SECONDS, MAX_AT_ONCE, MAX_PAUSE_SECONDS, Courtesy
from tests.support.fakes import FakeClock

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def account(number: str = "1") -> Account:
    return Account(
        id=number, name="Bakery", slug="bakery", phone_number_id=number, access_token="t", verify_token="v",
        phone_number=None, is_active=True, bot_auto_on=True, created_at=NOW, updated_at=NOW,
    )  # fmt: skip


class Phone:
    """A messenger of which only receipts are asked. `gate`: holds them back until it is set."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def mark_read(self, account: Account, wa_message_id: str, *, typing: bool) -> None:
        self.asked.append(account.phone_number_id)
        await self.gate.wait()
        if self.error is not None:
            raise self.error


class Desk:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.phone = Phone()
        self.courtesy = Courtesy(self.phone, clock=self.clock)

    async def write(self, times: int = 1, number: str = "1") -> int:
        """So many customers write; how many receipts were asked for."""
        before = len(self.phone.asked)
        for _ in range(times):
            self.courtesy.show_typing(account(number), "wamid")
            for _ in range(3):
                await asyncio.sleep(0)
        return len(self.phone.asked) - before


async def test_every_message_gets_one() -> None:
    assert await Desk().write(50) == 50


async def test_after_a_failure_there_is_a_pause_that_grows_and_one_try_after_each() -> None:
    desk = Desk()
    desk.phone.error = Unavailable("whatsapp", "no")
    assert await desk.write(20) == 1
    pause = FIRST_PAUSE_SECONDS
    while pause < MAX_PAUSE_SECONDS:
        desk.clock.advance(pause - 0.1)
        assert await desk.write(5) == 0
        desk.clock.advance(0.1)
        assert await desk.write(5) == 1
        pause = min(2 * pause, MAX_PAUSE_SECONDS)
    desk.clock.advance(MAX_PAUSE_SECONDS)
    assert await desk.write(5) == 1, "the pause does not grow for ever"


async def test_one_that_is_shown_again_ends_the_trouble() -> None:
    desk = Desk()
    desk.phone.error = Unavailable("whatsapp", "no")
    await desk.write()
    desk.phone.error = None
    desk.clock.advance(FIRST_PAUSE_SECONDS)
    assert await desk.write(20) == 20


async def test_the_trouble_of_one_account_is_its_own() -> None:
    desk = Desk()
    desk.phone.error = Unavailable("whatsapp", "no")
    await desk.write(3, "1")
    desk.phone.error = None
    assert await desk.write(3, "2") == 3


async def test_receipts_that_hang_take_a_bounded_number_of_tasks_and_delay_nobody() -> None:
    desk = Desk()
    desk.phone.gate.clear()
    assert await desk.write(200) == MAX_AT_ONCE
    desk.phone.error = Unavailable("whatsapp", "no answer")
    desk.phone.gate.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    desk.clock.advance(MAX_PAUSE_SECONDS)
    desk.phone.gate.clear()
    assert await desk.write(200) == 1, "one try, until it is answered"
    desk.phone.gate.set()


async def test_accounts_in_trouble_are_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(courtesy, "MAX_ACCOUNTS_IN_TROUBLE", 3)
    desk = Desk()
    desk.phone.error = Unavailable("whatsapp", "no")
    for number in range(10):
        await desk.write(1, str(number))
    assert len(desk.courtesy._troubles) == 3


async def test_closing_ends_what_hangs(monkeypatch: Any) -> None:
    monkeypatch.setattr(courtesy, "CLOSE_SECONDS", 0.01)
    desk = Desk()
    desk.phone.gate.clear()
    await desk.write(3)
    await desk.courtesy.aclose()
    await desk.courtesy.aclose()
    assert not desk.courtesy._tasks
