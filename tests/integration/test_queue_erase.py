"""What is about one person leaves the queue, also what a worker holds, and nothing else does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from app.core.queue import Event, QueueUnavailable
from app.core.queue.erasure import Erasure
from app.core.redis.door import Door, DoorTimings
from app.localhost.servers import Valkey
from tests.support.queue_kit import Replicas, claim_one, event, eventually, ids


@pytest.fixture
async def replicas(valkey_url: str) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        yield Replicas(valkey_url, stack)


@pytest.mark.parametrize("shards", [1, 4])
async def test_mailboxes_go_with_all_that_is_known_of_them(replicas: Replicas, shards: int) -> None:
    queue = replicas.queue(shards=shards)
    other = event("number:other", "kept")
    await queue.put([event("number:ada", "a1"), event("number:ada", "a2"), event("number:ada-2", "a3"), other])
    for claim in await queue.claim(10):
        verdict = queue.park(claim, 1, "broken") if claim.mailbox == "number:ada" else None
        await (verdict or queue.retry_later(claim, 60.0, counted=True, reason="later"))
    erased = await queue.erase(
        ["number:ada", "number:ada-2", "number:nobody"], [], lambda letter: letter.event.mailbox == "number:ada"
    )
    assert sorted(erased.event_ids) == ["a1", "a2", "a3"]
    assert (erased.dead_letters, erased.claims) == (1, 0)
    names = b"\n".join(await replicas.redis.keys("*"))
    assert b"ada" not in names
    assert b"d:a" not in names
    assert await queue.audit() == 0
    stats = await queue.stats()
    assert (stats.pending, stats.ready, stats.dead) == (1, 1, 0)
    assert (await queue.put([event("number:ada", "a1"), other])).accepted == 1, "only what went may come again"


async def test_who_holds_a_mailbox_has_lost_it(replicas: Replicas) -> None:
    queue, eraser = replicas.queue(), replicas.queue()
    await queue.put([event("ada", "a1")])
    claim = await claim_one(queue)
    erased = await eraser.erase(["ada"], [], lambda _letter: False)
    assert (erased.claims, erased.event_ids) == (1, ["a1"])
    assert await queue.extend([claim]) == [claim]
    assert not await queue.done(claim)
    assert not await queue.park(claim, 1, "too late")
    await queue.put([event("ada", "a2")])
    newer = await claim_one(queue)
    assert ids(newer) == ["a2"]
    assert newer.token > claim.token
    assert await queue.audit() == 0


async def test_ids_are_forgotten_also_with_something_behind_them(replicas: Replicas) -> None:
    queue = replicas.queue()
    await queue.put([event("m", "wamid.1"), event("m", "wamid.2#17"), event("m", "wamid.3#18"), event("m", "wamid.22")])
    await queue.done(await claim_one(queue))
    await queue.erase([], ["wamid.1", "wamid.2"], lambda _letter: False, separator="#")
    assert sorted(await replicas.redis.keys("*d:wamid*")) == [b"test:{q0}:d:wamid.22", b"test:{q0}:d:wamid.3#18"]


async def test_dead_letters_are_found_by_what_they_say(replicas: Replicas) -> None:
    queue = replicas.queue()
    for n in range(450):
        payload = b"of 33612345678" if n % 3 == 0 else b"of another"
        await queue.dead_letters.add(Event(f"e{n}", f"unknown:{n}", payload), "unreadable")
    erased = await queue.erase([], [], lambda letter: b"33612345678" in letter.event.payload)
    assert erased.dead_letters == 150
    assert (await queue.stats()).dead == 300


@pytest.mark.parametrize("first", [False, True], ids=["any", "first"])
async def test_what_a_person_writes_after_a_failed_erasure_stays_when_a_frozen_server_wakes(
    replicas: Replicas, valkey: Valkey, *, first: bool
) -> None:
    """Also the first one of a process, which cannot know the server's time."""
    queue = replicas.queue(door=Door(replicas.client(), timings=DoorTimings(answer_seconds=0.3)))
    other = replicas.queue()
    erasure = Erasure(queue._shards, queue.dead_letters)
    await other.put([event("ada", "a1")])
    await queue.stats()  # the connection is open: what is sent waits in the server's buffer
    if not first:
        await erasure.mailboxes(["another"])
    before = await replicas.calls()
    valkey.pause()
    with pytest.raises(QueueUnavailable):
        await erasure.mailboxes(["ada"])
    valkey.resume()

    async def late_call_ran() -> bool:
        return await replicas.calls() > before

    await eventually(late_call_ran)
    assert (await other.stats()).pending == 1
    await erasure.mailboxes(["ada"])
    assert erasure.erased.event_ids == ["a1"]
