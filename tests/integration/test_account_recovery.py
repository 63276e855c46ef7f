"""An account that cannot send: its customers go to a person in time; who still waits is answered once it can again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest

from app.core.cache import invalidate_everywhere
from app.core.circuit_breaker import (
    CIRCUIT_BREAKERS,
    BreakerFleet,
    CircuitBreaker,
    State,
    whatsapp_account_breakers,
)
from app.core.fleet.lease import Lease
from app.core.lifecycle import Supervisor
from app.core.queue import Event
from app.core.redis.door import Door
from app.core.secrets import TokenCipher
from app.domain.errors import AccountRejected
from app.domain.models import Account, HandoverReason, Recipient, Status, User
from app.domain.ports import SendDecision
from app.sandbox import webhooks as wa
from app.services import breaker_service, delivery
from app.services.account_watch import AccountWatch
from app.services.breaker_service import BreakerAction, BreakerService
from app.services.cache_relay import CacheRelay
from tests.support.breaker_kit import PATIENT
from tests.support.patience import Within
from tests.support.queue_kit import claim_one

from .conftest import MakeOffice, Office

BAR_SECONDS = 5.0
"""From the change of the account to the last answer (the issue's bar)."""
BLOCKED_SECONDS = 20.0
"""An open circuit of an account blocks for longer, so a message that waits for its end takes longer."""


@asynccontextmanager
async def part_of_a_fleet(office: Office, valkey_url: str) -> AsyncIterator[BreakerService]:
    """The office's circuits follow the fleet, and its relay carries out what the database remembers."""
    async with AsyncExitStack() as stack:
        door = Door.to(valkey_url)
        stack.push_async_callback(door.aclose)
        fleet = BreakerFleet(door, namespace="test", replica_id="a", timings=PATIENT)
        fleet.join(*CIRCUIT_BREAKERS.values(), whatsapp_account_breakers)
        stack.push_async_callback(fleet.leave)
        await fleet.sync()
        service = BreakerService(fleet, CIRCUIT_BREAKERS, whatsapp_account_breakers, office.queue)
        stack.push_async_callback(service.aclose)
        relay = CacheRelay(
            office.store, invalidate_everywhere, Lease(door, key="test:relay", holder="a", seconds=6),
            account_changed=service.account_changed,
        )  # fmt: skip
        supervisor = Supervisor()
        stack.push_async_callback(supervisor.stop)
        supervisor.start("circuits", fleet.run)
        supervisor.start("relay", relay.run)
        yield service


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "ACCOUNT_RETRY_SECONDS", 0.2)
    monkeypatch.setattr(breaker_service, "WAKE_AGAIN_SECONDS", 0.3)


async def with_a_wrong_token(office: Office) -> None:
    """Meta knows another token for this number than we have."""
    await office.control.add_account(office.account.phone_number_id, "the-right-one")


async def ask(office: Office, count: int = 6) -> list[wa.Person]:
    people = [office.person() for _ in range(count)]
    for person in people:
        await office.receive(person, wa.text(person, "Do you have vegan pastries?"))
    return people


async def account(office: Office) -> Account:
    found = await office.store.get_account(office.account.id)
    assert found is not None
    return found


async def until_blocked(office: Office) -> None:
    """Confirmed, and its circuit is open: from now on nothing is tried for half a minute."""
    circuit = whatsapp_account_breakers.get(office.account.phone_number_id)

    async def blocked() -> bool:
        return (await account(office)).is_blocked and circuit.snapshot().state is State.OPEN

    await office.until(blocked)


async def circuit_is(circuit: CircuitBreaker, state: State) -> bool:
    return circuit.snapshot().state is state


async def nothing_is_remembered(office: Office) -> bool:
    """The relay has carried out what the database remembered."""
    return not await office.store.pending_invalidations(limit=1)


UntilAnswered = Callable[[Office, list[wa.Person], float], Awaitable[None]]


@pytest.fixture
def until_answered(within: Within) -> UntilAnswered:
    async def wait(office: Office, people: list[wa.Person], since: float) -> None:
        async def answered() -> bool:
            done = {entry["to"] for entry in await office.control.record(kind="send", processed=True)}
            return done >= {person.wa_id for person in people}

        await office.until(answered, timeout_seconds=25)
        assert time.monotonic() - since < within(BAR_SECONDS, below=BLOCKED_SECONDS)

    return wait


async def by_the_service(office: Office, _sql: asyncpg.Connection) -> None:
    await office.accounts.update(office.account.id, {"access_token": "the-right-one"})


async def by_sql(office: Office, sql: asyncpg.Connection) -> None:
    cipher = office.accounts._cipher
    await sql.execute(
        "update whatsapp_accounts set access_token = $2 where id = $1::uuid",
        office.account.id, cipher.encrypt("the-right-one"),
    )  # fmt: skip


async def by_the_settings(office: Office, _sql: asyncpg.Connection) -> None:
    await office.accounts.bootstrap(
        phone_number_id=office.account.phone_number_id, access_token="the-right-one", verify_token="v"
    )


Change = Callable[[Office, asyncpg.Connection], Awaitable[None]]


@pytest.mark.parametrize("change", [by_the_service, by_sql, by_the_settings])
async def test_who_waits_is_answered_at_once_when_the_token_is_replaced(
    make_office: MakeOffice, valkey_url: str, store_url: str, until_answered: UntilAnswered, change: Change
) -> None:
    office = await make_office()
    await with_a_wrong_token(office)
    sql = await asyncpg.connect(store_url)
    try:
        async with part_of_a_fleet(office, valkey_url):
            people = await ask(office)
            await until_blocked(office)
            people += await ask(office)  # these get no further than the open circuit
            assert whatsapp_account_breakers.get(office.account.phone_number_id).blocked_seconds() > BLOCKED_SECONDS
            since = time.monotonic()
            await change(office, sql)
            await until_answered(office, people, since)
            await office.until_idle()
            assert [len(await office.sends(person)) for person in people].count(0) == 0
            found = await account(office)
            assert (found.is_blocked, found.refusals) == (False, 0)
    finally:
        await sql.close()


async def test_refusals_of_the_token_before_that_come_late_do_not_keep_the_circuit_open(
    make_office: MakeOffice, valkey_url: str, until_answered: UntilAnswered
) -> None:
    office = await make_office()
    await with_a_wrong_token(office)
    before = await account(office)
    circuit = whatsapp_account_breakers.get(before.phone_number_id)
    await office.accounts.update(before.id, {"access_token": "the-right-one"})
    async with part_of_a_fleet(office, valkey_url):
        people = await ask(office, 1)
        await until_answered(office, people, time.monotonic())
        await office.until(lambda: nothing_is_remembered(office))  # else the replacement above would close the circuit

        for _ in range(3):
            with pytest.raises(AccountRejected) as refused:
                await office.outside.messenger.send_text(
                    before, Recipient(wa_id=people[0].wa_id, user_id=None), "Yes.", outbound_key="late"
                )
        await office.until(lambda: circuit_is(circuit, State.OPEN))
        await office.accounts.refused(before, refused.value.reason)
        await office.until(lambda: circuit_is(circuit, State.CLOSED))


async def test_an_account_switched_off_and_on_again_is_tried_at_once(
    make_office: MakeOffice, valkey_url: str, until_answered: UntilAnswered
) -> None:
    office = await make_office()
    fault = await office.control.add_fault("whatsapp", error="131031", match={"operation": "send"})
    async with part_of_a_fleet(office, valkey_url):
        await ask(office)
        await until_blocked(office)
        await office.control.remove_fault(fault)
        await office.accounts.update(office.account.id, {"is_active": False})
        await office.until_idle()  # a bot that is off waits for nothing
        await office.accounts.update(office.account.id, {"is_active": True})

        circuit = whatsapp_account_breakers.get(office.account.phone_number_id)
        await office.until(lambda: circuit_is(circuit, State.CLOSED))
        since = time.monotonic()
        await until_answered(office, await ask(office, 3), since)


async def test_a_good_send_ends_the_block_and_wakes_the_others(
    make_office: MakeOffice, valkey_url: str, until_answered: UntilAnswered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paid, unlocked, approved: nobody tells us; the circuit's probe finds out."""
    office = await make_office()
    fault = await office.control.add_fault("whatsapp", error="131042", match={"operation": "send"})
    async with part_of_a_fleet(office, valkey_url) as service:
        people = await ask(office)
        await until_blocked(office)
        assert (await account(office)).blocked_reason == "payment_problem"
        await office.control.remove_fault(fault)
        name = f"whatsapp_api:{office.account.phone_number_id}"
        # As if the circuit's half minute were over for one conversation: the others sleep on.
        monkeypatch.setattr(service._queue, "wake", lambda _groups: asyncio.sleep(0, 0))
        await service.force(name, BreakerAction.AUTO, who="test", why="test")
        monkeypatch.undo()
        since = time.monotonic()
        await until_answered(office, [*people, *await ask(office, 1)], since)
        assert not (await account(office)).is_blocked


async def test_a_circuit_that_a_person_forced_stays_so(make_office: MakeOffice, valkey_url: str) -> None:
    office = await make_office()
    async with part_of_a_fleet(office, valkey_url) as service:
        name = f"whatsapp_api:{office.account.phone_number_id}"
        await service.force(name, BreakerAction.OPEN, who="ada", why="an audit")
        await service.account_changed(office.account.phone_number_id)
        row = (await service.overview())[name]
        assert (row["state"], row["forced"], row["who"]) == ("open", True, "ada")


@pytest.mark.parametrize("action", [BreakerAction.AUTO, BreakerAction.CLOSE])
@pytest.mark.parametrize(
    ("circuit", "woken"),
    [("gemini", {"1", "2"}), ("whatsapp", {"1", "2"}), ("supabase", {"1", "2"}), ("whatsapp_api:1", {"1"})],
)
async def test_a_circuit_that_a_person_closes_wakes_what_waits_for_it(
    make_office: MakeOffice, valkey_url: str, circuit: str, woken: set[str], action: BreakerAction
) -> None:
    office = await make_office()
    await office.worker.loop.drain(1)  # the test is the worker
    async with part_of_a_fleet(office, valkey_url) as service:
        await service.force(circuit, BreakerAction.OPEN, who="test", why="test")
        for number in ("1", "2"):
            await office.queue.put([Event(f"id-{number}", f"message:{number}:a", b"")])
            claim = await claim_one(office.queue)
            await office.queue.retry_later(claim, 600, counted=False, reason="not now")
        await service.force(circuit, action, who="test", why="test")
        claims = await office.queue.claim(10)
        assert {claim.mailbox.split(":")[1] for claim in claims} == woken


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("190", "token_invalid"), ("131031", "account_locked"), ("368", "policy_violation"),
        ("131042", "payment_problem"), ("encryption_key", "token_unreadable"), ("token", "token_malformed"),
    ],
)  # fmt: skip
async def test_at_the_reply_deadline_all_who_wait_are_with_a_person_and_nothing_is_retried(
    make_office: MakeOffice, valkey_url: str, until_answered: UntilAnswered, trouble: str, reason: str
) -> None:
    office = await make_office(reply_deadline_seconds=1.5)
    if trouble.isdigit():
        await office.control.add_fault("whatsapp", error=trouble, match={"operation": "send"})
    elif trouble == "token":
        await office.accounts.update(office.account.id, {"access_token": "to\nken"})
    else:
        lost = TokenCipher([TokenCipher.generate_key()]).encrypt("token")
        await office.store.update_account(office.account.id, {"access_token": lost})
    async with part_of_a_fleet(office, valkey_url):
        await ask(office, 4)

        async def blocked() -> bool:
            return (await account(office)).is_blocked

        await office.until(blocked)
        people = await ask(office, 2)
        await office.until_idle()
        page = await office.store.list_conversations(office.account.id, limit=10, cursor=None)
        assert {(c.needs_human, c.needs_human_reason) for c in page.items} == {(True, HandoverReason.ACCOUNT_BLOCKED)}
        assert len(page.items) == 6
        assert all(c.bot_enabled for c in page.items)
        assert (await office.queue.stats()).dead == 0
        assert await office.control.record(kind="send", processed=True) == []
        assert (await account(office)).blocked_reason == reason
        watch = AccountWatch(office.store)
        await watch.look()
        assert (watch.view.reasons, [a.id for a in watch.view.accounts]) == ({reason: 1}, [office.account.id])

        # Restored: the bot answers from the next message on.
        await office.control.clear_faults()
        await office.accounts.update(office.account.id, {"access_token": "token"})
        since = time.monotonic()
        await office.receive(people[0], wa.text(people[0], "Are you there?"))
        await until_answered(office, people[:1], since)


async def test_two_refusals_make_no_block_and_only_delay_the_answer(
    make_office: MakeOffice, valkey_url: str, until_answered: UntilAnswered
) -> None:
    office = await make_office()
    await office.control.add_fault("whatsapp", error="190", count=2, match={"operation": "send"})
    async with part_of_a_fleet(office, valkey_url):
        people = await ask(office, 1)
        await until_answered(office, people, time.monotonic())
        await office.until_idle()
        found = await account(office)
        assert (found.is_blocked, found.refusals) == (False, 0)


async def test_a_person_learns_that_their_message_cannot_go_out(
    make_office: MakeOffice, valkey_url: str, until_answered: UntilAnswered
) -> None:
    office = await make_office(reply_deadline_seconds=1.0)
    people = await ask(office, 1)
    await until_answered(office, people, time.monotonic())
    await office.until_idle()
    (conversation,) = (await office.store.list_conversations(office.account.id, limit=1, cursor=None)).items
    await office.control.add_fault("whatsapp", error="190", match={"operation": "send"})
    async with part_of_a_fleet(office, valkey_url):
        await office.conversations.reply_as_human(
            User("ada", is_operator=True), conversation.id, "One moment", idempotency_key=None
        )
        await office.until_idle()
        newest = (await office.store.list_messages(conversation.id, limit=1, cursor=None)).items[0]
        assert (newest.text, newest.status) == ("One moment", Status.FAILED)
        assert newest.error is not None
        assert newest.error["code"] == "account_blocked"


@pytest.mark.parametrize(("error", "code"), [("190", "account_blocked"), ("131053", 131053)])
async def test_a_person_learns_that_their_file_cannot_go_out(
    make_office: MakeOffice,
    valkey_url: str,
    until_answered: UntilAnswered,
    monkeypatch: pytest.MonkeyPatch,
    error: str,
    code: object,
) -> None:
    office = await make_office(reply_deadline_seconds=1.0)
    people = await ask(office, 1)
    await until_answered(office, people, time.monotonic())
    await office.until_idle()
    (conversation,) = (await office.store.list_conversations(office.account.id, limit=1, cursor=None)).items
    await office.control.add_fault("whatsapp", error=error, match={"operation": "upload"})
    begun: list[str] = []

    async def begin_part(key: str, **_: object) -> SendDecision:
        """A worker that ends after this one leaves a message that is being sent."""
        begun.append(key)
        return SendDecision.SEND

    monkeypatch.setattr(office.store, "begin_part", begin_part)
    async with part_of_a_fleet(office, valkey_url):
        await office.conversations.reply_with_file(
            User("ada", is_operator=True), conversation.id, content=b"%PDF-1.4", name="order.pdf", text="Your order",
            idempotency_key=None,
        )  # fmt: skip
        await office.until_idle()
        newest = (await office.store.list_messages(conversation.id, limit=1, cursor=None)).items[0]
        assert (newest.text, newest.type, newest.status) == ("[document] Your order", "document", Status.FAILED)
        assert newest.error is not None
        assert newest.error["code"] == code
        found = await office.store.get_conversation(conversation.id)
        assert found is not None
        assert found.needs_human
        assert (await account(office)).is_blocked is (error == "190")
        assert begun == []


async def test_a_persons_message_that_waits_goes_out_when_the_token_is_replaced(
    make_office: MakeOffice, valkey_url: str, until_answered: UntilAnswered, within: Within
) -> None:
    office = await make_office()
    await with_a_wrong_token(office)
    async with part_of_a_fleet(office, valkey_url):
        people = await ask(office)
        await until_blocked(office)
        page = await office.store.list_conversations(office.account.id, limit=1, cursor=None)
        ada, wanted = User("ada", is_operator=True), page.items[0]
        await office.conversations.reply_as_human(ada, wanted.id, "This is Ada", idempotency_key=None)
        since = time.monotonic()
        await office.accounts.update(office.account.id, {"access_token": "the-right-one"})
        others = [person for person in people if person.wa_id != wanted.contact.wa_id]
        await until_answered(office, others, since)
        (sent,) = await office.control.wait(1, kind="send", processed=True, to=wanted.contact.wa_id)
        assert sent["text"] == "This is Ada"
        assert time.monotonic() - since < within(BAR_SECONDS, below=BLOCKED_SECONDS)


async def test_a_refused_token_that_was_replaced_meanwhile_is_no_reason_to_wait(
    make_office: MakeOffice, until_answered: UntilAnswered, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = await make_office()
    monkeypatch.setattr(delivery, "ACCOUNT_RETRY_SECONDS", 60.0)
    fault = await office.control.add_fault("whatsapp", action="hang_before", match={"operation": "send"})
    await with_a_wrong_token(office)
    people = await ask(office, 1)
    await office.control.wait(1, kind="send")
    since = time.monotonic()
    await office.accounts.update(office.account.id, {"access_token": "the-right-one"})
    await office.control.remove_fault(fault)
    await until_answered(office, people, since)


async def test_the_setting_replaces_a_token_when_it_changes_and_not_when_it_is_old(make_office: MakeOffice) -> None:
    office = await make_office()
    number, token_of = office.account.phone_number_id, office.accounts._cipher.decrypt

    async def start(token: str) -> str:
        await office.accounts.bootstrap(phone_number_id=number, access_token=token, verify_token="v")
        return token_of((await account(office)).access_token)

    assert await start("from the settings") == "token", "added by hand, and it works as far as we know"
    assert await start("from the settings") == "token"
    assert await start("a new setting") == "a new setting"
    await office.accounts.update(office.account.id, {"access_token": "by hand"})
    assert await start("a new setting") == "by hand", "the old setting knows nothing of it"
