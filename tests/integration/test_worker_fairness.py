"""An account whose handling hangs takes its share of a worker and no more, and costs nothing while it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any, cast

import pytest

from app.core.queue import Claim, Queue
from app.demo.bakery import BAKERY
from app.sandbox import webhooks as wa
from app.services.account_notices import AccountNotices
from app.services.inbox_worker import InboxWorker
from app.services.ingest_service import IngestService
from app.services.run import Handled, Run
from tests.support.office import MakeOffice
from tests.support.patience import Within
from tests.support.queue_kit import Replicas, eventually


class HangingBot:
    """Holds the customers of one account until it is told to let one go."""

    def __init__(self, hangs: str) -> None:
        self._hangs = hangs
        self.started: list[str] = []
        self.let_go = asyncio.Semaphore(0)

    async def handle(self, run: Run, _hold: object) -> Handled:
        self.started.append(run.phone_number_id)
        if run.phone_number_id == self._hangs:
            await self.let_go.acquire()
        return Handled("replied", len(run.messages))


def messages(number: str, count: int) -> dict[str, object]:
    """A POST with one message of each of `count` customers."""
    people = [wa.Person(f"3361{n:07d}", "Amina") for n in range(count)]
    texts = [wa.text(person, "Hello?") for person in people]
    return wa.envelope(wa.messages_change(wa.Business(number), texts, people))


async def until_started(bot: HangingBot, count: int) -> None:
    async def reached() -> bool:
        return len(bot.started) >= count

    await eventually(reached)
    assert len(bot.started) == count


@pytest.fixture
async def replicas(valkey_url: str) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        yield Replicas(valkey_url, stack)


@pytest.fixture
async def bot() -> HangingBot:
    return HangingBot("1001")


@pytest.fixture
async def worker(replicas: Replicas, bot: HangingBot) -> AsyncIterator[InboxWorker]:
    """Five slots, of which four are for any one account."""
    worker = InboxWorker(replicas.queue(), bot, None, AccountNotices(None), concurrency=5)
    running = asyncio.create_task(worker.loop.run())
    yield worker
    await worker.loop.drain(0)
    await running


async def test_freed_slot_is_refilled_at_once(
    replicas: Replicas, bot: HangingBot, worker: InboxWorker, within: Within
) -> None:
    await IngestService(replicas.queue()).accept(messages("1001", 12))
    await until_started(bot, 4)
    for count in range(5, 10):
        at = time.monotonic()
        bot.let_go.release()
        await until_started(bot, count)
        assert time.monotonic() - at < within(0.3, below=0.9)
    assert worker.loop.active == 4


@pytest.mark.usefixtures("worker")
async def test_hanging_account_costs_no_calls_and_leaves_room_for_others(
    replicas: Replicas, bot: HangingBot, within: Within
) -> None:
    ingest = IngestService(replicas.queue())
    await ingest.accept(messages("1001", 12))
    await until_started(bot, 4)
    before = await replicas.calls()
    await asyncio.sleep(0.5)  # time itself: what a full account costs meanwhile
    assert await replicas.calls() - before <= 4
    at = time.monotonic()
    await ingest.accept(messages("1002", 20))
    await until_started(bot, 24)
    assert time.monotonic() - at < within(1)
    assert bot.started.count("1002") == 20


async def test_account_with_a_hanging_model_does_not_delay_the_answers_of_another(
    make_office: MakeOffice, within: Within
) -> None:
    office = await make_office(profile={"business_name": "Hanging Gardens"})
    neighbour = await office.store.create_account(
        name="Neighbour", slug="neighbour", phone_number_id="7001",
        access_token=office.account.access_token, verify_token="verify-me",
    )  # fmt: skip
    await office.store.update_profile(neighbour.id, BAKERY)
    rule = await office.control.add_fault("gemini", action="hang_before", match={"system_contains": "Hanging Gardens"})
    people = [office.person() for _ in range(20)]
    for person in people:
        await office.receive(person, wa.text(person, "Hello?"))

    async def at_its_share() -> bool:
        return office.worker.loop.active == 8

    await office.until(at_its_share)
    for _ in range(3):
        person, at = office.person(), time.monotonic()
        text = wa.text(person, "Do you have vegan pastries?")
        await office.ingest.accept(wa.envelope(wa.messages_change(wa.Business("7001"), [text], [person])))
        (send,) = await office.control.wait(1, kind="send", to=person.wa_id)
        assert "apple turnover" in send["text"]
        assert time.monotonic() - at < within(1)
    assert len(await office.control.record(kind="send")) == 3
    await office.control.remove_fault(rule)
    await office.until_idle()
    for person in people:
        assert len(await office.sends(person)) == 1


async def test_claim_with_room_to_spare_is_followed_by_a_wait(replicas: Replicas, bot: HangingBot) -> None:
    queue, steps = replicas.queue(), list[str]()

    class Observed:
        """The queue, and what is asked of it to find work."""

        async def claim(self, limit: int, **shares: Any) -> list[Claim]:
            claims = await queue.claim(limit, **shares)
            steps.append("all" if len(claims) == limit else f"{len(claims)} of more")
            return claims

        async def wait(self) -> None:
            steps.append("wait")
            await queue.wait()

        def __getattr__(self, name: str) -> Any:
            return getattr(queue, name)

    worker = InboxWorker(cast(Queue, Observed()), bot, None, AccountNotices(None), concurrency=5)
    running = asyncio.create_task(worker.loop.run())
    ingest = IngestService(replicas.queue())
    for count in range(1, 4):
        await ingest.accept(messages("1002", 1))
        await until_started(bot, count)
    await worker.loop.drain(0)
    await running
    assert steps.count("1 of more") == 3
    assert not any(step != "wait" and after != "wait" for step, after in pairwise(steps))
