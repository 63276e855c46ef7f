"""The database goes away, or is slow, while a send is on its way: WhatsApp's word is neither lost nor judged early."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from app.adapters.database_trouble import DatabaseUnavailable, Trouble
from app.core.circuit_breaker import supabase_circuit_breaker
from app.core.queue import Event
from app.domain.errors import Fenced
from app.domain.models import Author, Conversation, InboundMessage, Recipient, Reply, ReplyState
from app.domain.ports import SendDecision
from app.domain.webhook import parse_webhook
from app.sandbox import webhooks as wa
from app.services.delivery import Delivered, Postponed
from app.services.ingest_service import encode
from tests.support.office import MakeOffice, Office
from tests.support.proxy import Proxy, proxied

LATER = 30.0
"""Seconds to reconcile: more than a test has. What ends earlier did not wait for them."""


@pytest.fixture
async def way(store_url: str) -> AsyncIterator[Proxy]:
    """The way to the database, which can be closed."""
    async with proxied(store_url) as proxy:
        yield proxy


async def conversation(office: Office) -> Conversation:
    page = await office.store.list_conversations(office.account.id, limit=10, cursor=None)
    (found,) = page.items
    return found


async def answered_and_held_back(office: Office, person: wa.Person) -> int:
    """WhatsApp has taken the answer, and its 200 is on the way until the rule that is returned is removed."""
    match = {"recipient": person.wa_id, "operation": "send"}
    rule: int = await office.control.add_fault("whatsapp", match=match, action="hang_after", count=1)
    await office.receive(person, wa.text(person, "Where are you?"))
    await office.control.wait(1, kind="send", to=person.wa_id, processed="true")
    return rule


def close(way: Proxy) -> None:
    way.refusing = True
    way.cut()


async def noted(office: Office, person: wa.Person) -> str:
    """The wamid, once it is in a receipt."""
    (send,) = await office.sends(person)

    async def is_noted() -> bool:
        return await office.outside.receipts.find(str(send["callback_data"])) == send["wamid"]

    await office.until(is_noted)
    return str(send["wamid"])


@pytest.mark.parametrize("resend", [False, True], ids=["hand over", "resend"])
async def test_an_accepted_send_is_recorded_when_the_database_is_back(
    make_office: MakeOffice, way: Proxy, resend: bool
) -> None:
    """Also past a circuit that is open by then."""
    office = await make_office(database_url=way.url, profile={"resend_ambiguous": resend})
    person = office.person()
    rule = await answered_and_held_back(office, person)
    close(way)
    await office.control.remove_fault(rule)
    await noted(office, person)
    supabase_circuit_breaker.force_open(who="test", why="test")
    way.refusing = False

    async def recorded() -> bool:
        return (await office.queue.stats()).pending == 0

    await office.until(recorded)
    supabase_circuit_breaker.reset()
    assert len(await office.sends(person)) == 1
    assert not (await conversation(office)).needs_human


@pytest.mark.parametrize("resend", [False, True], ids=["hand over", "resend"])
async def test_the_next_worker_finds_the_receipt_of_one_that_ended_before_it_could_record(
    make_office: MakeOffice, way: Proxy, resend: bool
) -> None:
    office = await make_office(database_url=way.url, profile={"resend_ambiguous": resend}, send_reconcile_seconds=0)
    person = office.person()
    rule = await answered_and_held_back(office, person)
    close(way)
    await office.control.remove_fault(rule)
    await noted(office, person)
    await office.worker.loop.drain(0)
    way.refusing = False
    await office.start_worker()
    await office.until_idle()
    assert len(await office.sends(person)) == 1
    assert not (await conversation(office)).needs_human


@pytest.mark.parametrize("error", ["131056", "131026"], ids=["for now", "for good"])
async def test_a_refusal_is_recorded_when_the_database_is_back(make_office: MakeOffice, way: Proxy, error: str) -> None:
    """A refused send is not one of unknown outcome: it is repeated, or failed, without waiting for a proof."""
    office = await make_office(database_url=way.url, send_reconcile_seconds=LATER)
    person = office.person()
    match = {"recipient": person.wa_id, "operation": "send"}
    await office.control.add_fault("whatsapp", match=match, error=error, count=1, latency_ms=1000)
    await office.receive(person, wa.text(person, "Where are you?"))
    await office.control.wait(1, kind="send", to=person.wa_id)
    close(way)

    async def noted_as_unsent() -> bool:
        return bool(await office.outside.redis.ask("KEYS", "test:receipt:*"))

    await office.until(noted_as_unsent)
    way.refusing = False
    await office.until(lambda: _is_settled(office), timeout_seconds=25)
    assert (await conversation(office)).needs_human == (error == "131026")
    assert len([send for send in await office.sends(person) if send["processed"]]) == (error == "131056")


async def _is_settled(office: Office) -> bool:
    return (await office.queue.stats()).pending == 0


async def test_a_beginning_whose_answer_is_lost_was_no_send(
    make_office: MakeOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database has committed `sending`, and nobody sent: the next attempt sends at once."""
    office = await make_office(send_reconcile_seconds=LATER)
    person = office.person()
    lost: list[str] = []

    def lose_the_first_answer(name: str) -> Callable[..., Awaitable[object]]:
        call = getattr(office.store, name)

        async def begin(*args: Any, **kwargs: Any) -> object:
            answer = await call(*args, **kwargs)
            decision = answer[1] if isinstance(answer, tuple) else answer
            if decision is SendDecision.SEND and name not in lost:
                lost.append(name)
                raise DatabaseUnavailable(Trouble.AWAY, "the answer was lost")
            return answer

        return begin

    for name in ("save_and_begin", "begin_part"):
        monkeypatch.setattr(office.store, name, lose_the_first_answer(name))
    await office.receive(person, wa.text(person, "Where are you?"))
    await office.until_idle()
    assert lost == ["save_and_begin", "begin_part"]
    assert [send["processed"] for send in await office.sends(person)] == [True]
    assert not (await conversation(office)).needs_human


# -- a send of unknown outcome, judged ---------------------------------------------------------------------------------


@dataclass
class Held:
    """A worker's hold; what `ensures` raises says that it has ended."""

    fence: int
    ensures: Callable[[], None] = lambda: None

    def ensure_held(self) -> None:
        self.ensures()


class Judged:
    """A reply whose part was begun by an earlier attempt; no worker runs."""

    def __init__(self, office: Office, person: wa.Person, reply: Reply) -> None:
        self.office = office
        self.person = person
        self.reply = reply

    @classmethod
    async def of(cls, office: Office, *, user_id: str | None = None) -> Judged:
        await office.worker.loop.drain(0)
        person = office.person()
        asked = InboundMessage(f"wamid.{person.wa_id}", "text", "Hello?", datetime.now(UTC), {})
        wa_id = None if user_id else person.wa_id
        inbound = await office.store.record_inbound(
            office.account.id, wa_id=wa_id, user_id=user_id, name="Ada", messages=[asked]
        )
        reply = await office.store.open_reply(
            inbound.conversation.id, key=asked.wa_message_id, author=Author.BOT, covers=[asked.wa_message_id],
            fence=1, body="Here.",
        )  # fmt: skip
        await office.store.begin_part(reply.key, fence=1, part=0, parts=1, text="Here.")
        return cls(office, person, reply)

    async def again(self, *, resend: bool = False) -> Delivered:
        reply = await self.office.store.open_reply(
            self.reply.conversation_id, key=self.reply.key, author=Author.BOT, covers=(), fence=2
        )
        return await self.office.delivery.deliver(
            reply, account=self.office.account, hold=Held(2), accepted_at=datetime.now(UTC), resend=resend
        )  # fmt: skip

    async def status_waits(self, name: str, *, recipient: str | None = None) -> None:
        status = wa.status(
            "wamid.sent", name, recipient=recipient or str(self.person.wa_id), callback_data=f"{self.reply.key}#0"
        )
        payload = wa.envelope(wa.statuses_change(self.office.business, [status]))
        await self.office.queue.put([encode(event) for event in parse_webhook(payload)])

    async def is_flagged(self) -> bool:
        return (await conversation(self.office)).needs_human

    async def sends(self) -> int:
        return len(await self.office.control.record(kind="send"))


@pytest.mark.parametrize("resend", [False, True], ids=["hand over", "resend"])
@pytest.mark.parametrize("spelling", ["as sent", "another spelling", "user id"])
async def test_the_proof_that_waits_in_the_queue_is_read_before_a_send_is_judged(
    make_office: MakeOffice, resend: bool, spelling: str
) -> None:
    user_id = "FR.13491208655302741918" if spelling == "user id" else None
    judged = await Judged.of(await make_office(send_reconcile_seconds=0), user_id=user_id)
    recipient = user_id
    if spelling == "another spelling":
        judged.person = wa.Person("525512345678", "Ana")
        judged.reply = replace(judged.reply, to=Recipient("5215512345678", None))
        recipient = "525512345678"
    await judged.status_waits("sent", recipient=recipient)
    if spelling == "another spelling":
        reply = judged.reply
        delivered = await judged.office.delivery.deliver(
            reply, account=judged.office.account, hold=Held(2), accepted_at=datetime.now(UTC), resend=resend
        )  # fmt: skip
    else:
        delivered = await judged.again(resend=resend)
    assert delivered == Delivered(ReplyState.SENT)
    assert await judged.sends() == 0
    assert not await judged.is_flagged()


async def test_a_waiting_status_that_says_failed_fails_the_reply_and_calls_a_person(make_office: MakeOffice) -> None:
    judged = await Judged.of(await make_office(send_reconcile_seconds=LATER))
    await judged.status_waits("failed")
    assert (await judged.again()).state is ReplyState.FAILED
    assert await judged.is_flagged()


async def test_a_status_of_another_message_proves_nothing(make_office: MakeOffice) -> None:
    judged = await Judged.of(await make_office(send_reconcile_seconds=0))
    other = replace(judged.reply, key="another")
    await Judged(judged.office, judged.person, other).status_waits("sent")
    assert (await judged.again()).state is ReplyState.FAILED
    assert await judged.is_flagged()


async def test_time_without_a_database_does_not_count_as_time_to_reconcile(make_office: MakeOffice) -> None:
    office = await make_office(send_reconcile_seconds=0.2, uptime_gap_seconds=5.0)
    judged = await Judged.of(office)
    await asyncio.to_thread(_spend, 0.3)
    with pytest.raises(Postponed) as caught:  # nobody has seen the database in that time
        await judged.again()
    assert 0 < caught.value.delay_seconds <= 0.21
    office.outside.uptime.answered("database")
    await asyncio.to_thread(_spend, 0.25)
    assert (await judged.again()).state is ReplyState.FAILED


def _spend(seconds: float) -> None:
    """Real time: the database's clock says since when the send is under way."""
    asyncio.run(asyncio.sleep(seconds))


async def test_a_send_is_not_judged_while_events_of_the_fallback_are_on_their_way(make_office: MakeOffice) -> None:
    judged = await Judged.of(await make_office(send_reconcile_seconds=0))
    await judged.office.store.inbox_put([Event("e", "status:1:2", b"{}")], max_rows=10, max_bytes=10**9, reopen=True)
    with pytest.raises(Postponed, match="queue was away"):
        await judged.again(resend=True)
    assert await judged.sends() == 0


async def test_a_proof_that_comes_at_the_moment_of_the_judgement_stands(
    make_office: MakeOffice, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = await make_office(send_reconcile_seconds=0)
    judged = await Judged.of(office)
    fail = office.store.fail_part

    async def too_late(*args: Any, **kwargs: Any) -> None:
        await office.store.complete_part(judged.reply.key, part=0, wamid="wamid.proof", last=True)
        await fail(*args, **kwargs)

    monkeypatch.setattr(office.store, "fail_part", too_late)
    assert await judged.again() == Delivered(ReplyState.SENT)
    assert not await judged.is_flagged()


async def test_a_send_that_was_stopped_because_the_lease_had_ended_is_no_send(make_office: MakeOffice) -> None:
    office = await make_office(send_reconcile_seconds=LATER)
    judged = await Judged.of(office)
    await office.store.fail_part(judged.reply.key, fence=1, part=0, error={"code": "x"}, final=False)
    reply = await office.store.open_reply(
        judged.reply.conversation_id, key=judged.reply.key, author=Author.BOT, covers=(), fence=1
    )

    def lost() -> None:
        raise Fenced("the lease may have ended")

    with pytest.raises(Fenced):
        await office.delivery.deliver(
            reply, account=office.account, hold=Held(1, lost), accepted_at=datetime.now(UTC), resend=False
        )  # fmt: skip
    assert (await judged.again()).state is ReplyState.SENT
    assert await judged.sends() == 1


@pytest.mark.timeout(120)
async def test_with_a_second_for_each_statement_nothing_is_sent_twice_or_handed_over(
    make_office: MakeOffice, way: Proxy
) -> None:
    office = await make_office(
        database_url=way.url, profile={"resend_ambiguous": True}, send_reconcile_seconds=1, worker_concurrency=20
    )
    people = [office.person() for _ in range(10)]
    match = {"operation": "send"}
    rule = await office.control.add_fault("whatsapp", match=match, action="hang_after")
    for person in people:
        await office.receive(person, wa.text(person, "Where are you?"))
    for person in people:
        await office.control.wait(1, kind="send", to=person.wa_id, processed="true", timeout_seconds=30)
    way.delay_seconds = 1.0
    await office.control.remove_fault(rule)
    for person in people:
        (send,) = await office.sends(person)
        status = wa.status(send["wamid"], "sent", recipient=str(person.wa_id), callback_data=send["callback_data"])
        await office.ingest.accept(wa.envelope(wa.statuses_change(office.business, [status])))
    await office.until(lambda: _is_settled(office), timeout_seconds=80)
    way.delay_seconds = 0.0
    assert [len(await office.sends(person)) for person in people] == [1] * len(people)
    page = await office.store.list_conversations(office.account.id, limit=20, cursor=None)
    assert [item.needs_human for item in page.items] == [False] * len(people)
