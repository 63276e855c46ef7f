"""What finds no room in the queue is kept for a person, and what came with it is not its hostage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from app import wiring
from app.core.queue import QueueFull
from app.domain.errors import Unavailable
from app.domain.models import HandoverReason
from app.domain.webhook import parse_webhook
from app.localhost.servers import Postgres, Valkey
from app.sandbox import webhooks as wa
from app.services.ingest_service import encode
from tests.support.desk import NOWHERE, Desk, desk
from tests.support.serving import settings_of


@pytest.fixture
async def small(valkey_url: str, store_url: str) -> AsyncIterator[Desk]:
    async with desk(valkey_url, store_url, max_per_mailbox=3) as made:
        yield made


async def test_a_full_mailbox_keeps_its_overflow_apart_and_the_rest_of_the_delivery_is_stored(small: Desk) -> None:
    flood, others = small.person(), [small.person() for _ in range(20)]
    await small.overflow.put(small.events(flood, *(wa.text(flood, f"in {n}") for n in range(3))))
    delivery = small.events(flood, wa.text(flood, "out 1"), wa.text(flood, "out 2"))
    for person in others:
        delivery += small.events(person, wa.text(person, "hello"))
    result = await small.overflow.put(delivery)
    assert (result.accepted, len(result.diverted)) == (20, 2)
    assert not await small.drain.drain()
    assert await small.store.overflow_peek(limit=1) == []
    conversation = await small.conversation_with(flood.wa_id)
    assert await small.texts(conversation) == ["out 1", "out 2"]
    assert conversation.needs_human_reason == HandoverReason.OVERFLOW
    assert (await small.queue.stats()).pending == 23


async def test_a_repeated_delivery_of_the_overflow_adds_nothing(small: Desk) -> None:
    person = small.person()
    events = small.events(person, *(wa.text(person, f"{n}") for n in range(5)))
    await small.overflow.put(events)
    await small.overflow.put(events)
    await small.drain.drain()
    await small.overflow.put(events)
    await small.drain.drain()
    assert await small.texts(await small.conversation_with(person.wa_id)) == ["3", "4"]


async def test_what_cannot_be_recorded_becomes_a_dead_letter_and_stops_nothing(small: Desk) -> None:
    stranger, person = small.person(), small.person()
    nowhere = small.events(stranger, *(wa.text(stranger, f"{n}") for n in range(4)), business=wa.Business("999"))
    good = small.events(person, *(wa.text(person, f"{n}") for n in range(4)))
    bad = good[3]._replace(payload=b"{}")
    await small.overflow.put(nowhere)
    await small.overflow.put([*good[:3], bad])
    await small.drain.drain()
    assert await small.store.overflow_peek(limit=1) == []
    letters, _ = await small.queue.dead_letters.page(limit=10)
    assert sorted(letter.reason for letter in letters)[1] == "unknown phone_number_id 999"
    assert [letter.event.id for letter in letters] == [nowhere[3].id, bad.id]


async def test_a_full_overflow_refuses_and_the_database_being_away_too(small: Desk, postgres: Postgres) -> None:
    person = small.person()
    await small.overflow.put(small.events(person, *(wa.text(person, f"{n}") for n in range(3))))
    with pytest.raises(QueueFull):
        await small.overflow.put(small.events(person, *(wa.text(person, "x") for _ in range(101))))
    postgres.kill()
    with pytest.raises(Unavailable):
        await small.overflow.put(small.events(person, wa.text(person, "y")))


async def test_an_account_that_has_its_share_is_refused_and_what_came_beside_it_is_kept(
    valkey_url: str, store_url: str
) -> None:
    async with desk(valkey_url, store_url, max_per_mailbox=1) as made:
        await made.store.create_account(
            name="Other", slug="other", phone_number_id="8200000009", access_token="token", verify_token="verify-me"
        )
        loud, quiet, other = made.person(), made.person(), wa.Business("8200000009")
        await made.overflow.put(made.events(loud, *(wa.text(loud, f"{n}") for n in range(48))))
        flood = made.events(loud, *(wa.text(loud, f"more {n}") for n in range(10)))
        beside = made.events(quiet, *(wa.text(quiet, f"{n}") for n in range(4)), business=other)
        with pytest.raises(QueueFull):
            await made.overflow.put([*flood, *beside])
        kept = [event.id for _, event in await made.store.overflow_peek(limit=1000)]
        assert {event.id for event in beside[1:]} <= set(kept)
        assert len(kept) == 50 + 3
        await made.drain.drain()
        assert (await made.overflow.put([*flood, *beside])).accepted == 0, "there is room again"


async def test_a_person_is_called_while_redis_is_away(small: Desk, valkey: Valkey) -> None:
    nowhere, person = small.person(), small.person()
    await small.overflow.put(
        small.events(nowhere, *(wa.text(nowhere, f"{n}") for n in range(4)), business=wa.Business("999"))
    )
    await small.overflow.put(small.events(person, *(wa.text(person, f"{n}") for n in range(4))))
    valkey.kill()
    try:
        assert not await small.drain.drain()
        conversation = await small.conversation_with(person.wa_id)
        assert conversation.needs_human_reason == HandoverReason.OVERFLOW
        assert len(await small.store.overflow_peek(limit=10)) == 1, "what can only become a dead letter waits for Redis"
    finally:
        valkey.start()
    await small.drain.drain()
    assert await small.store.overflow_peek(limit=10) == []
    assert [letter.reason for letter in (await small.queue.dead_letters.page(limit=10))[0]] == [
        "unknown phone_number_id 999"
    ]


async def test_two_customers_with_the_longest_messages_leave_room_for_the_others(
    valkey_url: str, store_url: str
) -> None:
    async with desk(valkey_url, store_url, max_pending=100_000, max_bytes=20_000_000) as made:
        loud = [made.person(), made.person()]
        for n in range(60):
            for person in loud:
                await made.overflow.put(made.events(person, wa.text(person, "é" * 65_536, id=f"{person.wa_id}{n}")))
            await made.drain.drain()
        assert (await made.queue.stats()).bytes < 2 * 2 * 2**20 + 100_000
        for _ in range(40):
            person = made.person()
            assert (await made.overflow.put(made.events(person, wa.text(person, "hello")))).accepted == 1


async def test_a_number_has_one_share_of_the_queue_whatever_kinds_of_updates_it_brings(
    valkey_url: str, store_url: str
) -> None:
    async with AsyncExitStack() as stack:
        settings = settings_of(NOWHERE, valkey_url, store_url, redis_namespace="test", queue_max_pending=100)
        queue = (await wiring.open_outside(settings, stack)).queue
        loud, quiet = wa.Business("8200000001"), wa.Business("8200000002")
        people = [wa.Person(f"3366{n:07d}", "Ada") for n in range(60)]
        flood = []
        for person in people:
            flood += [
                wa.messages_change(loud, [wa.text(person, "hello")], [person]),
                wa.statuses_change(loud, [wa.status(f"wamid.{person.wa_id}", "read", recipient=str(person.wa_id))]),
                wa.echoes_change(loud, [wa.echo(loud, str(person.wa_id), "hi")]),
            ]
        await queue.put([encode(event) for event in parse_webhook(wa.envelope(*flood))])
        assert (await queue.stats()).pending == 50
        others = [wa.messages_change(quiet, [wa.text(person, "hello")], [person]) for person in people[:20]]
        result = await queue.put([encode(event) for event in parse_webhook(wa.envelope(*others))])
        assert (result.accepted, result.diverted) == (20, ())
