"""Typing indicators: in the background, bounded, and given up at the first sign of trouble."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from app.core.errors import Overloaded
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
        self.messages: list[str] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def mark_read(self, account: Account, wa_message_id: str, *, typing: bool) -> None:
        self.asked.append(account.phone_number_id)
        self.messages.append(wa_message_id)
        await self.gate.wait()
        if self.error is not None:
            raise self.error


class Desk:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.phone = Phone()
        self.courtesy = Courtesy(self.phone, clock=self.clock)
        self.customers = 0

    async def write(self, times: int = 1, number: str = "1") -> int:
        """So many customers write; how many receipts were asked for."""
        before = len(self.phone.asked)
        for _ in range(times):
            self.customers += 1
            await self.hear(f"c{self.customers}", f"wamid{self.customers}", number)
        return len(self.phone.asked) - before

    async def hear(self, conversation: str, message: str, number: str = "1") -> None:
        self.courtesy.show_typing(account(number), conversation, message)
        await self.turns()

    async def turns(self) -> None:
        for _ in range(6):
            await asyncio.sleep(0)


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
    await desk.turns()
    desk.clock.advance(MAX_PAUSE_SECONDS)
    desk.phone.gate.clear()
    assert await desk.write(200) == 1, "one try, until it is answered"
    desk.phone.gate.set()


class BusyLoop(FakeClock):
    """Every look at it takes `turn_seconds`."""

    def __init__(self) -> None:
        super().__init__()
        self.turn_seconds = 0.1

    def monotonic(self) -> float:
        self.seconds += self.turn_seconds
        return self.seconds


def busy_desk() -> tuple[Desk, BusyLoop]:
    desk, clock = Desk(), BusyLoop()
    desk.courtesy = Courtesy(desk.phone, clock=clock)
    return desk, clock


async def test_while_the_loop_has_work_none_is_sent_and_the_latest_message_gets_it_afterwards() -> None:
    desk, clock = busy_desk()
    await desk.hear("c", "first")
    await desk.hear("c", "second")
    assert desk.phone.messages == []
    clock.turn_seconds = 0
    await desk.turns()
    assert desk.phone.messages == ["second"]


async def test_one_that_finds_no_time_is_dropped() -> None:
    desk, clock = busy_desk()
    await desk.hear("c", "first")
    for _ in range(20):
        await desk.turns()
    assert not desk.courtesy._tasks
    clock.turn_seconds = 0
    await desk.turns()
    assert desk.phone.messages == []


async def test_one_that_waits_when_the_answer_is_there_is_dropped() -> None:
    desk, clock = busy_desk()
    await desk.hear("c", "first")
    desk.courtesy.answer_is_there("c")
    clock.turn_seconds = 0
    await desk.turns()
    assert desk.phone.messages == []
    await desk.hear("c", "next")
    assert desk.phone.messages == ["next"]


async def test_one_that_is_under_way_is_not_cancelled_by_the_answer_nor_joined_by_another() -> None:
    desk = Desk()
    desk.phone.gate.clear()
    await desk.hear("c", "first")
    desk.courtesy.answer_is_there("c")
    await desk.hear("c", "second")
    assert desk.phone.messages == ["first"]
    (task,) = desk.courtesy._tasks.values()
    desk.phone.gate.set()
    await task
    await desk.hear("c", "third")
    assert desk.phone.messages == ["first", "third"]


async def test_a_message_whose_answer_is_begun_again_has_had_its_own() -> None:
    desk = Desk()
    for _ in range(3):
        await desk.hear("c", "first")
    assert desk.phone.messages == ["first"]
    desk.clock.advance(courtesy.TYPING_SECONDS)
    await desk.hear("c", "first")
    assert desk.phone.messages == ["first", "first"]
    assert len(desk.courtesy._shown) == 1


async def test_when_sends_have_all_the_places_it_is_dropped_and_no_trouble() -> None:
    desk = Desk()
    desk.phone.error = Overloaded("whatsapp", "no place")
    assert await desk.write(3) == 3


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
    assert await desk.write() == 0
    assert not desk.courtesy._tasks


async def test_closing_waits_for_one_under_way_and_sends_none_that_waits() -> None:
    desk, clock = busy_desk()
    clock.turn_seconds = 0
    desk.phone.gate.clear()
    await desk.hear("c", "under way")
    clock.turn_seconds = 0.1
    await desk.hear("d", "waits")
    closing = asyncio.create_task(desk.courtesy.aclose())
    await desk.turns()
    desk.phone.gate.set()
    await closing
    assert desk.phone.messages == ["under way"]
    assert not desk.courtesy._tasks
