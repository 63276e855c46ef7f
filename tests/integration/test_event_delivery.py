"""Events for other systems on their whole way out: outbox, relay, queue, worker, receiver."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import asyncpg
import orjson
import pytest
from prometheus_client import REGISTRY
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from app import wiring
from app.adapters.receivers import HttpReceiver
from app.core.egress import Egress
from app.core.fleet.lease import Lease, LeaseLost
from app.core.http_client import close_http_client, leave_by
from app.core.queue import DeadLetter, Event, Queue
from app.core.secrets import TokenCipher
from app.domain.endpoints import Endpoint
from app.domain.errors import Unavailable
from app.domain.ports import Store
from app.domain.webhook_signature import new_secret
from app.localhost.servers import Valkey
from app.services.dead_letters import DeadLetterList, view
from app.services.event_worker import EventPolicy, EventWorker
from app.services.outbox_relay import OutboxRelay, group_of
from app.services.outbox_watch import OutboxWatch
from tests.support.patience import Within
from tests.support.queue_kit import eventually
from tests.support.receiving import HANG, Receivers, receivers
from tests.support.serving import settings_of

_numbers = count(1)
CIPHER = TokenCipher([TokenCipher.generate_key()])
QUICK = EventPolicy(retry_cap_seconds=0.2)


@dataclass
class Exchange:
    """One database, one Redis, one receivers' server; relays and workers as the test starts them."""

    stack: AsyncExitStack
    settings: Any
    store: Store
    sql: asyncpg.Connection
    outside: Receivers
    account: str
    secrets: dict[str, str] = field(default_factory=dict)

    def queue(self) -> Queue:
        door = wiring.open_door(self.settings.redis_url, self.stack)
        return wiring.open_events_queue(self.settings, self.stack, door)

    def relay(self, queue: Queue, **options: Any) -> OutboxRelay:
        door = wiring.open_door(self.settings.redis_url, self.stack)
        lease = Lease(door, key="test:{fleet}:outbox_relay", holder=uuid.uuid4().hex, seconds=6)
        return OutboxRelay(self.store, queue, lease, **options)

    async def move(self, queue: Queue) -> None:
        """What a relay does once."""
        relay = self.relay(queue)
        await relay.begin()
        await relay.round()

    def worker(self, queue: Queue, *, policy: EventPolicy = QUICK, timeout_seconds: float = 10.0) -> EventWorker:
        receiver = HttpReceiver(may_be_private=True, timeout_seconds=timeout_seconds)
        return EventWorker(queue, self.store, receiver, CIPHER, policy=policy)

    def run(self, *loops: Any) -> None:
        for loop in loops:
            task = asyncio.create_task(loop())
            self.stack.callback(task.cancel)

    async def start(self, *, workers: int = 1, relay: dict[str, Any] | None = None, **options: Any) -> Queue:
        """A relay and workers, each with a queue as of a replica of its own. Returns the relay's."""
        queue = self.queue()
        self.run(self.relay(queue, **relay or {}).run)
        for _ in range(workers):
            worker = self.worker(self.queue(), **options)
            self.run(worker.loop.run, worker.loop.renew)
            self.stack.push_async_callback(worker.loop.drain, 0)
        return queue

    async def listen(self, path: str, *events: str) -> Endpoint:
        secret = self.secrets[path] = new_secret()
        return await self.store.create_endpoint(
            self.account, url=self.outside.url + path, events=events or ["message.sent"],
            secret=CIPHER.encrypt(secret), most=100,
        )  # fmt: skip

    async def tell(self, number: int, conversation: str | None = None, kind: str = "message.sent") -> list[str]:
        """So many events, each in a transaction of its own; their ids."""
        talk = uuid.UUID(conversation) if conversation else None
        return [
            str(
                await self.sql.fetchval(
                    "insert into outbox (account_id, conversation_id, type, payload) values ($1, $2, $3, $4)"
                    " returning id",
                    uuid.UUID(self.account), talk, kind, orjson.dumps({"n": n}).decode(),
                )
            )
            for n in range(number)
        ]  # fmt: skip

    async def tell_at_once(self, number: int) -> None:
        """So many events, in one transaction."""
        await self.sql.execute(
            "insert into outbox (account_id, type, payload) select $1, 'message.sent', '{}'"
            " from generate_series(1, $2)",
            uuid.UUID(self.account), number,
        )  # fmt: skip

    async def is_muted(self) -> bool:
        """Does the database announce no events?"""
        name = "hashtext('chorus_outbox')"
        is_free = await self.sql.fetchval(f"select pg_try_advisory_lock_shared({name})")
        if is_free:
            await self.sql.execute(f"select pg_advisory_unlock_shared({name})")
        return not is_free

    async def waiting(self) -> int:
        return int(await self.sql.fetchval("select count(*) from outbox"))

    async def look(self, endpoint: Endpoint) -> Endpoint:
        found = await self.store.get_endpoint(self.account, endpoint.id)
        assert found is not None
        return found

    async def nothing_waits(self) -> None:
        async def empty() -> bool:
            return await self.waiting() == 0

        await eventually(empty)


@pytest.fixture
async def exchange(valkey_url: str, store_url: str) -> AsyncIterator[Exchange]:
    leave_by(Egress(strangers_may_be_private=True))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(close_http_client)
        outside = await stack.enter_async_context(receivers())
        settings = settings_of("http://127.0.0.1:9", valkey_url, store_url)
        store = await wiring.open_store(settings)
        stack.push_async_callback(store.aclose)
        sql = await asyncpg.connect(store_url)
        stack.push_async_callback(sql.close)
        number = next(_numbers)
        account = await store.create_account(
            name="Shop", slug=f"events-{number}", phone_number_id=f"5000{number:06d}", access_token="cipher",
            verify_token="verify-me",
        )  # fmt: skip
        yield Exchange(stack, settings, store, sql, outside, account.id)
    leave_by(Egress())


def conversation() -> str:
    return str(uuid.uuid4())


async def test_an_event_is_told_signed_within_a_second_of_its_commit(exchange: Exchange) -> None:
    endpoint = await exchange.listen("/a")
    await exchange.start()
    await exchange.tell(1)
    await exchange.outside.until("/a", 1)  # everything is connected by now
    delays = []
    for _ in range(9):
        at = time.time()
        await exchange.tell(1)
        await exchange.outside.until("/a", 2 + len(delays))
        delays.append(exchange.outside.told["/a"][-1].at - at)
    assert statistics.median(delays) < 0.5
    told = exchange.outside.told["/a"][-1]
    assert Webhook(exchange.secrets["/a"]).verify(told.body, told.headers)["id"] == told.id
    await exchange.nothing_waits()
    shown = await exchange.store.list_deliveries(endpoint.id, limit=200)
    assert [delivery.event_id for delivery in shown][::-1] == exchange.outside.ids("/a")
    assert {(delivery.outcome, delivery.status) for delivery in shown} == {("delivered", 200)}


async def test_a_busy_relay_looks_by_itself_and_a_waiting_one_is_told_of_the_next_event(exchange: Exchange) -> None:
    await exchange.listen("/a")
    await exchange.start()
    told = 0
    for muted in (True, False):
        async with asyncio.timeout(20):
            while await exchange.is_muted() is not muted:
                if muted:  # so many in every look
                    await exchange.tell_at_once(10)
                    told += 10
    await exchange.tell(1)
    await exchange.outside.until("/a", told + 1)


async def test_while_a_secret_takes_the_place_of_another_receivers_with_either_take_events(exchange: Exchange) -> None:
    endpoint, second = await exchange.listen("/a"), new_secret()
    changes = {"secret": CIPHER.encrypt(second), "overlap_seconds": 3600}
    await exchange.store.update_endpoint(exchange.account, endpoint.id, changes)
    await exchange.start()
    await exchange.tell(1)
    await exchange.outside.until("/a", 1)
    (told,) = exchange.outside.told["/a"]
    for secret in (exchange.secrets["/a"], second):
        assert Webhook(secret).verify(told.body, told.headers)["id"] == told.id
    await exchange.sql.execute("update webhook_endpoints set previous_secret_until = now()")
    await exchange.tell(1)
    await exchange.outside.until("/a", 2)
    told = exchange.outside.told["/a"][-1]
    assert Webhook(second).verify(told.body, told.headers)["id"] == told.id
    with pytest.raises(WebhookVerificationError):
        Webhook(exchange.secrets["/a"]).verify(told.body, told.headers)


async def test_what_is_delivered_at_the_same_moment_shares_transactions(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: dict[str, int] = dict.fromkeys(("outbox_next", "outbox_moved", "outbox_work"), 0)
    call = exchange.store._call  # type: ignore[attr-defined]  # every transaction of the store

    async def counted(operation: str, /, **p: Any) -> Any:
        if operation in calls:
            calls[operation] += 1
        return await call(operation, **p)

    monkeypatch.setattr(exchange.store, "_call", counted)
    for path in ("/a", "/b", "/c", "/d"):
        await exchange.listen(path)
    await exchange.tell(50)
    for _ in range(50):
        await exchange.tell(1, conversation())
    await exchange.start()
    for path in ("/a", "/b", "/c", "/d"):
        await exchange.outside.until(path, 100)
    await exchange.nothing_waits()
    assert sum(calls.values()) < 200, "half a transaction for each delivery, where each on its own needs two"
    assert {len(told) for told in exchange.outside.told.values()} == {100}


async def test_a_settlement_that_waits_for_a_lock_or_fails_holds_no_other_back(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, broken, _ = [await exchange.listen(path) for path in ("/locked", "/broken", "/fine")]
    await exchange.tell(1)
    work = exchange.store.outbox_work

    async def trouble(settlements: Any, loads: Any) -> Any:
        about = {each.endpoint_id for each in settlements}
        if broken.id in about:
            raise Unavailable("database", "it does not take this one")
        if locked.id in about:
            await asyncio.Event().wait()
        return await work(settlements, loads)

    monkeypatch.setattr(exchange.store, "outbox_work", trouble)
    await exchange.start()
    for n in range(3):
        await exchange.outside.until("/fine", n + 1)
        await exchange.tell(1, conversation())

    async def fine_is_settled() -> bool:
        return await exchange.sql.fetchval("select count(*) from webhook_deliveries where outcome = 'delivered'") >= 3

    await eventually(fine_is_settled)


async def test_each_conversation_is_told_in_order_by_several_workers(exchange: Exchange) -> None:
    await exchange.listen("/a")
    await exchange.listen("/b")
    talks = [conversation() for _ in range(5)]
    await exchange.start(workers=3)
    written: dict[str, list[str]] = {talk: [] for talk in talks}
    for _ in range(12):
        for talk in talks:
            written[talk] += await exchange.tell(1, talk)
    for path in ("/a", "/b"):
        told = await exchange.outside.until(path, 60)
        for talk in talks:
            assert [each for each in told if each in set(written[talk])] == written[talk]
        assert len(exchange.outside.told[path]) == 60, "nothing twice while nothing breaks"


async def test_a_relay_that_dies_between_its_steps_loses_and_doubles_nothing(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    await exchange.listen("/a")
    ids = await exchange.tell(3, conversation())
    queue = exchange.queue()
    dying = exchange.relay(queue)
    await dying.begin()
    with monkeypatch.context() as patched:
        patched.setattr(exchange.store, "outbox_moved", lambda *_, **__: asyncio.sleep(0))  # put, and never noted
        await dying.round()
    assert (await queue.stats()).pending == 3
    await exchange.start()
    assert await exchange.outside.until("/a", 3) == ids
    await exchange.nothing_waits()
    assert len(exchange.outside.told["/a"]) == 3


async def test_a_worker_that_dies_after_the_post_tells_again_with_the_same_id(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange.settings = exchange.settings.model_copy(update={"lease_seconds": 1.0})
    await exchange.listen("/a")
    ids = await exchange.tell(2, conversation())
    queue = exchange.queue()
    await exchange.move(queue)
    dying = exchange.worker(queue)
    died = asyncio.Event()

    work = exchange.store.outbox_work

    async def die(settlements: Any, loads: Any) -> Any:
        if not settlements:
            return await work(settlements, loads)
        died.set()
        return await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(exchange.store, "outbox_work", die)
        exchange.run(dying.loop.run)  # its lease is not renewed: it ends by itself
        await asyncio.wait_for(died.wait(), 5)
    await exchange.start()
    await exchange.nothing_waits()
    assert [told.id for told in exchange.outside.told["/a"]] == ids + ids
    bodies = {told.body for told in exchange.outside.told["/a"]}
    assert len(bodies) == 2, "the same bytes at every attempt"


async def test_a_redis_that_forgets_everything_costs_no_event(exchange: Exchange) -> None:
    await exchange.listen("/a")
    exchange.outside.answers["/a"] = 500
    queue = await exchange.start()
    ids = await exchange.tell(3, conversation())
    await exchange.outside.until("/a", 1, status=500)
    door = wiring.open_door(exchange.settings.redis_url, exchange.stack)
    await door.ask("FLUSHALL")
    assert await exchange.waiting() == 3
    exchange.outside.answers["/a"] = 200
    assert await exchange.outside.until("/a", 3) == ids
    await exchange.nothing_waits()
    assert (await queue.stats()).dead == 0


async def test_what_a_wiped_queue_lost_is_told_before_what_followed(exchange: Exchange) -> None:
    await exchange.listen("/a")
    talk, queue = conversation(), exchange.queue()
    relay, door = exchange.relay(queue), wiring.open_door(exchange.settings.redis_url, exchange.stack)
    lost = await exchange.tell(1, talk)
    await relay.begin()
    await relay.round()
    await door.ask("FLUSHALL")
    followed = await exchange.tell(2, talk)
    while await relay.round():
        pass
    worker = exchange.worker(exchange.queue())
    exchange.run(worker.loop.run)
    exchange.stack.push_async_callback(worker.loop.drain, 0)
    assert await exchange.outside.until("/a", 3) == lost + followed


async def test_all_that_a_wiped_queue_lost_is_looked_at_anew_in_small_pages(exchange: Exchange) -> None:
    await exchange.listen("/a")
    queue = exchange.queue()
    relay, door = exchange.relay(queue, upkeep_page=2), wiring.open_door(exchange.settings.redis_url, exchange.stack)
    ids = await exchange.tell(5, conversation())
    await relay.begin()
    await relay.round()
    await door.ask("FLUSHALL")
    await relay.begin()
    assert await exchange.sql.fetchval("select count(*) from outbox where life is null") == 5
    await relay.round()
    worker = exchange.worker(exchange.queue())
    exchange.run(worker.loop.run)
    exchange.stack.push_async_callback(worker.loop.drain, 0)
    assert await exchange.outside.until("/a", 5) == ids


async def test_pages_that_follow_are_left_to_the_relay_that_has_the_lease_by_now(exchange: Exchange) -> None:
    await exchange.listen("/a")
    queue = exchange.queue()
    relay, other = (exchange.relay(queue, upkeep_page=2) for _ in range(2))
    await exchange.tell(5, conversation())
    await relay.begin()
    await relay.round()
    await wiring.open_door(exchange.settings.redis_url, exchange.stack).ask("FLUSHALL")
    assert await other._lease.hold()
    with pytest.raises(LeaseLost):
        await relay.begin()
    assert await exchange.sql.fetchval("select count(*) from outbox where life is null") == 2, "one page"


async def test_while_redis_is_away_events_wait_in_the_database(exchange: Exchange, valkey: Valkey) -> None:
    await exchange.listen("/a")
    await exchange.start()
    first = await exchange.tell(1)
    await exchange.outside.until("/a", 1)
    valkey.stop()
    ids = await exchange.tell(3, conversation())
    await asyncio.sleep(1.5)  # time itself: longer than the relay looks away
    assert exchange.outside.ids("/a") == first
    # What the alert reads, on any replica: the one that moves them cannot tell.
    await OutboxWatch(exchange.store).look()
    waiting = REGISTRY.get_sample_value("chorus_outbox_oldest_seconds")
    assert waiting is not None
    assert waiting > 1.4
    valkey.start()
    assert await exchange.outside.until("/a", 4, timeout_seconds=15) == first + ids
    await OutboxWatch(exchange.store).look()
    assert REGISTRY.get_sample_value("chorus_outbox_oldest_seconds") == 0


async def test_a_receiver_that_was_down_catches_up_in_order_as_soon_as_it_is_back(
    exchange: Exchange, within: Within
) -> None:
    endpoint = await exchange.listen("/a")
    exchange.outside.answers["/a"] = 503
    queue = await exchange.start(workers=2, policy=EventPolicy(retry_cap_seconds=3600))
    talks = [conversation() for _ in range(20)]
    written = {talk: await exchange.tell(3, talk) for talk in talks}

    async def put_off() -> bool:
        stats = await queue.stats()
        return stats.pending == 60 and stats.leased == 0 and len(exchange.outside.told.get("/a", [])) >= 20

    await eventually(put_off)
    since = (await exchange.look(endpoint)).failing_since
    assert since is not None
    # As if it had been down for ten minutes: each would be tried again within minutes only.
    await exchange.sql.execute("update webhook_endpoints set failing_since = now() - interval '10 minutes'")
    exchange.outside.answers["/a"] = 200
    at = time.monotonic()
    await exchange.tell(1)
    told = await exchange.outside.until("/a", 61)
    assert time.monotonic() - at < within(4), "the first that goes well makes the rest due"
    for talk in talks:
        assert [each for each in told if each in set(written[talk])] == written[talk]
    await exchange.nothing_waits()
    assert (await exchange.look(endpoint)).failing_since is None


async def test_a_receiver_that_is_down_fills_the_table_and_not_the_queue(exchange: Exchange) -> None:
    down, fine = await exchange.listen("/down"), await exchange.listen("/fine")
    exchange.outside.answers["/down"] = 503
    queue = await exchange.start(relay={"window": 20, "page": 20})
    talks = [conversation() for _ in range(3)]
    written: list[tuple[str, str]] = [(talk, (await exchange.tell(1, talk))[0]) for _ in range(15) for talk in talks]
    await exchange.outside.until("/fine", 45)

    async def settled() -> bool:
        held = await exchange.sql.fetchval("select count(*) from outbox_held")
        return held == 25 and await queue.depths([group_of(down.id), group_of(fine.id)]) == [20, 0]

    await eventually(settled)
    exchange.outside.answers["/down"] = 200
    told = await exchange.outside.until("/down", 45)
    for talk in talks:
        mine = [event for where, event in written if where == talk]
        assert [each for each in told if each in set(mine)] == mine
    await exchange.nothing_waits()


async def test_one_that_is_gone_is_switched_off_told_of_and_replayed_when_it_is_back(exchange: Exchange) -> None:
    gone = await exchange.listen("/gone")
    await exchange.listen("/other", "webhook.disabled")
    exchange.outside.answers["/gone"] = 410
    queue = await exchange.start()
    ids = await exchange.tell(2, conversation())
    await exchange.outside.until("/other", 1)
    (told,) = exchange.outside.told["/other"]
    assert (told.type, told.data["webhook"]["id"], told.data["webhook"]["disabled_reason"]) == (
        "webhook.disabled", gone.id, "gone",
    )  # fmt: skip
    off = await exchange.look(gone)
    assert (off.enabled, off.disabled_reason) == (False, "gone")

    async def both() -> bool:
        return (await queue.stats()).dead == 2

    await eventually(both)
    letters, _ = await queue.dead_letters.page(limit=10)
    assert [letter.event.payload.decode() for letter in letters] == ids
    # The second was asked for at the same moment, or found the webhook switched off.
    first = "refused 410; the webhook is switched off"
    assert letters[0].reason == first
    assert letters[1].reason in {first, "the webhook is switched off (gone)"}
    assert exchange.outside.ids("/gone", status=410) == ids[:1], "nothing more is sent to it"
    await exchange.store.update_endpoint(exchange.account, gone.id, {"enabled": True})
    exchange.outside.answers["/gone"] = 200
    assert await queue.dead_letters.replay([letter.id for letter in letters]) == 2
    assert await exchange.outside.until("/gone", 2) == ids
    await exchange.nothing_waits()


async def test_three_days_of_failures_switch_it_off(exchange: Exchange) -> None:
    endpoint = await exchange.listen("/a")
    exchange.outside.answers["/a"] = 500
    queue = await exchange.start()
    await exchange.tell(1)
    await exchange.outside.until("/a", 1, status=500)
    await exchange.sql.execute("update webhook_endpoints set failing_since = now() - interval '73 hours'")

    async def off() -> bool:
        return (await exchange.look(endpoint)).disabled_reason == "failing" and (await queue.stats()).dead == 1

    await eventually(off)


async def test_one_event_that_is_refused_for_three_days_is_a_dead_letter_and_its_conversation_goes_on(
    exchange: Exchange,
) -> None:
    endpoint = await exchange.listen("/a")
    bad = (await exchange.tell(1))[0]
    exchange.outside.answers["/a"] = lambda told: 400 if told.id == bad else 200
    queue = await exchange.start(policy=EventPolicy(retry_cap_seconds=0.1, give_up_seconds=0.5))
    after = await exchange.tell(1)
    assert await exchange.outside.until("/a", 1) == after
    (letter,), _ = await queue.dead_letters.page(limit=10)
    assert (letter.event.payload.decode(), letter.reason) == (bad, "refused 400")
    assert (await exchange.look(endpoint)).enabled


async def test_receivers_that_hang_delay_no_other(exchange: Exchange, within: Within) -> None:
    """Twenty hang for 10 s, each with more conversations due than it has slots. By how much a healthy one is slower, if
    at all, `make chaos` measures."""
    await exchange.listen("/fine", "message.sent")
    for n in range(20):
        exchange.outside.answers[f"/hang{n}"] = HANG
        await exchange.listen(f"/hang{n}", "message.status")
    await exchange.start()
    for _ in range(8):
        await exchange.tell(1, conversation(), "message.status")
    async with asyncio.timeout(10):
        while not all(exchange.outside.told.get(f"/hang{n}") for n in range(20)):
            await asyncio.sleep(0.01)
    for n in range(20):
        at = time.monotonic()
        await exchange.tell(1, conversation())
        await exchange.outside.until("/fine", n + 1)
        assert time.monotonic() - at < within(1.5)


async def test_drain_gives_back_what_hangs_at_once(exchange: Exchange, within: Within) -> None:
    await exchange.listen("/a")
    exchange.outside.answers["/a"] = HANG
    queue = exchange.queue()
    await exchange.move(queue)
    leaving = exchange.worker(queue)
    exchange.run(leaving.loop.run)
    (event,) = await exchange.tell(1)
    await exchange.move(queue)
    await exchange.outside.until("/a", 1, status=HANG)
    exchange.outside.answers["/a"] = 200
    await leaving.loop.drain(0)
    await exchange.start()
    before_the_lease_ends = within(1, below=exchange.settings.lease_seconds / 2)
    assert await exchange.outside.until("/a", 1, timeout_seconds=before_the_lease_ends) == [event]


async def test_dead_letters_of_events_stand_behind_those_of_messages_in_one_list(exchange: Exchange) -> None:
    door = wiring.open_door(exchange.settings.redis_url, exchange.stack)
    messages, events = wiring.open_queue(exchange.settings, exchange.stack, door), exchange.queue()
    letters = DeadLetterList(messages.dead_letters, events.dead_letters)
    for n in range(3):
        await messages.dead_letters.add(Event(f"m{n}", "message:1001:amina", b"{}"), "no reason")
    for n in range(2):
        await events.dead_letters.add(Event(f"e{n}", f"event:endpoint:talk{n}", f"id{n}".encode()), "refused 500")
    for limit in range(1, 7):
        found: list[DeadLetter] = []
        cursor = None
        while True:
            page, cursor = await letters.page(limit=limit, cursor=cursor)
            assert 0 < len(page) <= limit
            found += page
            if cursor is None:
                break
        assert [view(letter)["kind"] for letter in found] == ["message"] * 3 + ["event"] * 2
    shown = view(found[3])
    assert (shown["webhook_id"], shown["event_id"], shown["event"]) == ("endpoint", "id0", "event:endpoint:id0")
    with pytest.raises(ValueError, match="cursor"):
        await letters.page(limit=1, cursor="enonsense")
    assert await letters.drop([found[0].id, found[3].id, "0-9-9", "e0-9-9"]) == 2
    assert await letters.replay([letter.id for letter in found]) == 3
    assert await messages.depths(["message:1001"]) == [2]
    assert await events.depths(["event:endpoint"]) == [1]
    assert await letters.page(limit=10, cursor=None) == ([], None)
