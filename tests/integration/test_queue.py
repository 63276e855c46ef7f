"""What the queue promises while everything works."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import pytest

from app.core.queue import Event, LeaseLost, PutResult, Queue, QueueAside, QueueFull
from tests.support.queue_kit import Replicas, accepted_ms, claim_one, event, eventually, full_twentieth, ids


@pytest.fixture
async def replicas(valkey_url: str) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        yield Replicas(valkey_url, stack)


async def test_event_comes_back_as_it_was_put(replicas: Replicas) -> None:
    queue = replicas.queue()
    before = time.time()
    await queue.put([Event("ïd", "mäilbox", bytes(range(256)), immediate=True)])
    claim = await claim_one(queue)
    (got,) = claim.events
    assert (got.id, got.mailbox, got.payload, got.immediate) == ("ïd", "mäilbox", bytes(range(256)), True)
    assert before - 0.01 <= got.accepted_at <= time.time() + 0.01
    assert claim.attempts == 0
    assert claim.is_held()


async def test_an_id_is_stored_once_also_after_it_was_done(replicas: Replicas) -> None:
    queue, other = replicas.queue(), replicas.queue()
    assert await queue.put([event("m", "a"), event("m", "a"), event("n", "b")]) == PutResult(2, 1)
    assert await other.put([event("m", "a"), event("m", "c")]) == PutResult(1, 1)
    claims = await queue.claim(10)
    assert {claim.mailbox: ids(claim) for claim in claims} == {"m": ["a", "c"], "n": ["b"]}
    assert [await queue.done(claim) for claim in claims] == [True, True]
    assert await queue.put([event("m", "a"), event("n", "b")]) == PutResult(0, 2)
    assert (await queue.stats()).pending == 0
    assert 8 * 86400 - 10 < await replicas.redis.ttl("test:{q0}:d:a") <= 8 * 86400


async def test_conversation_has_one_holder_and_keeps_its_order(replicas: Replicas) -> None:
    queue, other = replicas.queue(), replicas.queue()
    sent = [event("m", f"e{n}") for n in range(25)]
    await queue.put(sent[:24])
    claim = await claim_one(queue)
    assert ids(claim) == [e.id for e in sent[:20]]
    await queue.put(sent[24:])
    assert await other.claim(10) == []
    assert await queue.done(claim)
    rest = await claim_one(other)
    assert ids(rest) == [e.id for e in sent[20:]]
    assert rest.token > claim.token


async def test_longest_due_conversations_are_claimed_first_and_only_as_many_as_asked(replicas: Replicas) -> None:
    queue = replicas.queue()
    for name in ("first", "second", "third"):
        await queue.put([event(name)])
        await asyncio.sleep(0.002)
    assert [claim.mailbox for claim in await queue.claim(2)] == ["first", "second"]
    assert [claim.mailbox for claim in await queue.claim(2)] == ["third"]
    assert await queue.claim(0) == []


async def test_burst_is_due_after_its_last_event_at_most_the_cap_after_its_first(replicas: Replicas) -> None:
    queue = replicas.queue(debounce_seconds=0.3, debounce_cap_seconds=0.4)
    await queue.put([event()])
    await asyncio.sleep(0.05)
    await queue.put([event()])
    due_of_two = await replicas.due_ms("m")
    await asyncio.sleep(0.15)  # time itself: the burst goes on
    await queue.put([event()])
    due_of_three = await replicas.due_ms("m")
    claim = await claim_one(queue)
    first, second, _ = accepted_ms(claim)
    assert due_of_two == min(second + 300, first + 400)
    assert due_of_three == first + 400 <= claim.token // 1000, "a token starts with the time of the claim"


async def test_a_mailbox_that_gathers_is_due_a_time_after_the_first_event_however_many_follow(
    replicas: Replicas,
) -> None:
    queue = replicas.queue(gather_seconds=0.3, gathered=["status"])
    await queue.put([event("status:7:a", "sent", immediate=True), event("message:7:a", immediate=True)])
    due = await replicas.due_ms("status:7:a")
    assert [claim.mailbox for claim in await queue.claim(10)] == ["message:7:a"]
    await asyncio.sleep(0.05)
    await queue.put([event("status:7:a", "delivered", immediate=True)])
    assert await replicas.due_ms("status:7:a") == due
    claim = await claim_one(queue)
    assert ids(claim) == ["sent", "delivered"]
    assert due == full_twentieth(accepted_ms(claim)[0] + 300)


async def test_mailboxes_that_gather_are_due_together_and_wake_one_worker(replicas: Replicas) -> None:
    queue = replicas.queue(gather_seconds=0.9, gathered=["status"])
    boxes = [f"status:{n}:a" for n in range(10)]
    for box in boxes:
        await queue.put([event(box, immediate=True)])
    dues = {await replicas.due_ms(box) for box in boxes}
    assert dues == {full_twentieth(due) for due in dues}
    assert await replicas.redis.llen("test:{q0}:wake") == len(dues)


async def test_what_comes_while_a_gathering_mailbox_is_held_is_gathered_as_well(replicas: Replicas) -> None:
    queue = replicas.queue(gather_seconds=0.2, gathered=["status"])
    await queue.put([event("status:7:a", immediate=True)])
    held = await claim_one(queue)
    await queue.put([event("status:7:a", immediate=True)])
    await queue.done(held)
    due = await replicas.due_ms("status:7:a")
    assert due == full_twentieth(accepted_ms(await claim_one(queue))[0] + 200)


async def test_a_version_that_does_not_gather_works_beside_one_that_does(replicas: Replicas) -> None:
    queue, before = replicas.queue(gather_seconds=1.5, gathered=["status"]), replicas.queue()
    await queue.put([event("status:7:a", "sent", immediate=True)])
    await before.put([event("status:7:a", "delivered", immediate=True), event("status:7:b", "read", immediate=True)])
    assert [claim.mailbox for claim in await before.claim(10)] == ["status:7:b"]
    assert ids(await claim_one(before)) == ["sent", "delivered"]


async def test_burst_that_arrives_while_the_conversation_is_held_is_debounced_too(replicas: Replicas) -> None:
    queue = replicas.queue(debounce_seconds=0.2)
    await queue.put([event(immediate=True)])
    claim = await claim_one(queue)
    await queue.put([event()])
    await queue.done(claim)
    due = await replicas.due_ms("m")
    assert due == accepted_ms(await claim_one(queue))[0] + 200


async def test_burst_that_its_holder_finished_with_leaves_nothing_behind(replicas: Replicas) -> None:
    queue = replicas.queue(debounce_seconds=0.2)
    await queue.put([event(immediate=True)])
    claim = await claim_one(queue)
    await queue.put([event()])
    await queue.refresh(claim)
    await queue.done(claim)
    assert await replicas.redis.hlen("test:{q0}:first") == 0


async def test_immediate_event_is_due_now_and_leaves_a_time_that_is_set(replicas: Replicas) -> None:
    queue = replicas.queue(debounce_seconds=0.3)
    await queue.put([event("now", immediate=True)])
    (claim,) = await queue.claim(10)
    await queue.put([event("burst")])
    due = await replicas.due_ms("burst")
    await asyncio.sleep(0.01)
    await queue.put([event("burst", immediate=True)])
    assert await replicas.due_ms("burst") == due
    await queue.retry_later(claim, 60, counted=False, reason="upstream away")
    back = await replicas.due_ms("now")
    await queue.put([event("now", immediate=True), event("now")])
    assert await replicas.due_ms("now") == back


async def test_retry_waits_its_delay_and_only_counted_attempts_count(replicas: Replicas) -> None:
    queue = replicas.queue()
    await queue.put([event("m", "head"), event("m", "next")])
    claim = await claim_one(queue)
    assert not await queue.retry_later(claim, 0, counted=False, reason="drain")
    claim = await claim_one(queue)
    assert (claim.attempts, ids(claim)) == (0, ["head", "next"])
    failed_at = time.monotonic()
    assert not await queue.retry_later(claim, 0.5, counted=True, reason="bug")
    assert await queue.claim(1) == []
    claim = await claim_one(queue)
    assert time.monotonic() - failed_at >= 0.499
    assert (claim.attempts, ids(claim)) == (1, ["head"]), "a head that failed is tried alone"
    await queue.done(claim)
    assert ids(await claim_one(queue)) == ["next"]


async def test_poison_is_parked_after_exactly_the_maximum_and_the_conversation_goes_on(replicas: Replicas) -> None:
    queue = replicas.queue(max_attempts=3)
    await queue.put([event("m", "poison"), event("m", "good")])
    verdicts = []
    for _ in range(3):
        claim = await claim_one(queue)
        assert claim.events[0].id == "poison"
        verdicts.append(await queue.retry_later(claim, 0, counted=True, reason="ValueError: no"))
    assert verdicts == [False, False, True]
    claim = await claim_one(queue)
    assert (ids(claim), claim.attempts) == (["good"], 0)
    (letter,), _ = await queue.dead_letters.page(limit=10)
    assert (letter.event.id, letter.reason, letter.attempts) == ("poison", "ValueError: no", 3)
    assert abs(letter.parked_at - time.time()) < 5
    assert [failure.reason for failure in letter.history] == ["ValueError: no"] * 3


async def test_dead_letter_keeps_the_last_five_failures_and_no_other_events(replicas: Replicas) -> None:
    queue = replicas.queue(max_attempts=7, lease_seconds=0.05)
    await queue.put([event("m", "poison"), event("m", "next")])
    await claim_one(queue)  # and dies: the first of seven
    for n in range(6):
        await queue.retry_later(await claim_one(queue), 0, counted=True, reason=f"{n}" + "é" * 200)
    await queue.park(await claim_one(queue), 1, "unsupported")
    (poison, following), _ = await queue.dead_letters.page(limit=10)
    assert [failure.reason for failure in poison.history] == [f"{n}" + "é" * 99 for n in range(1, 6)]
    times = [failure.at for failure in poison.history]
    assert times == sorted(times)
    assert times[-1] == poison.parked_at
    assert [failure.reason for failure in following.history] == ["unsupported"]
    assert await replicas.redis.keys("test:{q0}:h:*") == []


async def test_unhandled_crash_is_part_of_the_history(replicas: Replicas) -> None:
    queue = replicas.queue(max_attempts=2, lease_seconds=0.05)
    await queue.put([event("m")])
    await claim_one(queue)
    await queue.retry_later(await claim_one(queue), 0, counted=True, reason="bug")
    (letter,), _ = await queue.dead_letters.page(limit=10)
    assert [failure.reason.partition(":")[0] for failure in letter.history] == ["no verdict", "bug"]


async def test_crashed_holder_costs_an_attempt_and_its_token_dies(replicas: Replicas) -> None:
    crashed, queue = replicas.queue(lease_seconds=0.2), replicas.queue(lease_seconds=0.2, max_attempts=2)
    await queue.put([event("m", "a"), event("m", "b")])
    lost = await claim_one(crashed)
    taken = await claim_one(queue)
    assert not lost.is_held()
    assert (taken.attempts, ids(taken)) == (1, ["a"])
    assert taken.token > lost.token
    assert await crashed.extend([lost]) == [lost]
    with pytest.raises(LeaseLost):
        await crashed.refresh(lost)
    assert not await crashed.done(lost)
    assert not await crashed.park(lost, 1, "late")
    assert not await crashed.retry_later(lost, 0, counted=True, reason="late")

    async def parked() -> bool:
        await queue.claim(1)
        return (await queue.stats()).dead == 1

    await eventually(parked)
    (letter,), _ = await queue.dead_letters.page(limit=10)
    assert (letter.event.id, letter.attempts) == ("a", 2)
    assert "no verdict" in letter.reason


async def test_reaped_conversation_that_nobody_took_yet_is_nobodys(replicas: Replicas) -> None:
    """It keeps its early place in the queue, and the holder it was taken from can no longer end it."""
    queue = replicas.queue(lease_seconds=0.15, debounce_seconds=0.1)
    await queue.put([event("m")])
    lost = await claim_one(queue)
    await queue.put([event("m")])

    async def reaped() -> bool:
        for key, member in (("groups", ""), ("r:", "decoy")):
            await replicas.redis.zadd(f"test:{{q0}}:{key}", {member: 0})  # takes the one place in the claim
        await queue.claim(1)
        return await replicas.redis.zscore("test:{q0}:lease", "m") is None

    await eventually(reaped)
    await queue.put([event("m")])
    claimed_at_ms = lost.token // 1000
    assert await replicas.due_ms("m") == claimed_at_ms
    assert not await queue.done(lost)


async def test_extended_lease_outlives_its_first_end_and_shows_what_arrived(replicas: Replicas) -> None:
    queue, other = replicas.queue(lease_seconds=1), replicas.queue(lease_seconds=1)
    await queue.put([event("m", "a")])
    claim = await claim_one(queue)
    first_end = claim.held_until
    for _ in range(4):
        await asyncio.sleep(0.3)  # time itself: the lease runs
        assert await queue.extend([claim]) == []
        assert claim.is_held()
        assert await other.claim(1) == []
    assert claim.held_until > first_end + 1
    await queue.put([event("m", "b")])
    assert await queue.refresh(claim) is claim
    assert ids(claim) == ["a", "b"]
    assert await queue.done(claim)
    assert await queue.extend([claim]) == [], "an ended claim is not a lost one"
    assert (await queue.stats()).pending == 0


async def test_dead_letters_are_paged_replayed_and_dropped(replicas: Replicas) -> None:
    queue = replicas.queue(max_attempts=2)
    await queue.put([event("m", f"e{n}") for n in range(5)])
    await queue.park(await claim_one(queue), 3, "unknown account")
    page, cursor = await queue.dead_letters.page(limit=2)
    last, end = await queue.dead_letters.page(limit=2, cursor=cursor)
    assert [letter.event.id for letter in page + last] == ["e0", "e1", "e2"]
    assert (cursor, end) == (page[1].id, None)
    accepted = page[0].event.accepted_at
    await asyncio.sleep(0.005)
    assert await queue.dead_letters.replay([page[1].id, page[0].id, "0-7-7", "nonsense"]) == 2
    assert await queue.dead_letters.drop([last[0].id, last[0].id, page[0].id]) == 1
    claim = await claim_one(queue)
    assert ids(claim) == ["e3", "e4", "e1", "e0"], "at the tail, in the order asked for"
    assert claim.events[-1].accepted_at > accepted
    assert await queue.dead_letters.page(limit=2) == ([], None)
    with pytest.raises(ValueError, match="cursor"):
        await queue.dead_letters.page(limit=2, cursor="nonsense")


async def test_dead_letters_are_bounded(replicas: Replicas) -> None:
    queue = replicas.queue(max_dead=100)
    for _ in range(30):
        await queue.put([event("m") for _ in range(20)])
        await queue.park(await claim_one(queue), 20, "unknown account")
    stats = await queue.stats()
    assert (stats.dead, stats.dead_lost) == (100, 500)


async def test_dead_letters_are_bounded_in_bytes_and_the_oldest_go_first(replicas: Replicas) -> None:
    queue = replicas.queue(max_dead_bytes=100_000)
    for n in range(30):
        await queue.put([Event(f"e{n}", "m", b"x" * 10_000)])
        await queue.park(await claim_one(queue), 1, "unknown account")
        assert (await queue.stats()).dead_bytes <= 100_000
    stats = await queue.stats()
    letters, _ = await queue.dead_letters.page(limit=100)
    assert [letter.event.id for letter in letters] == [f"e{n}" for n in range(21, 30)]
    assert (stats.dead, stats.dead_lost) == (9, 21)
    assert stats.dead_bytes > 90_000


async def test_a_letter_larger_than_all_of_them_may_be_is_kept_alone(replicas: Replicas) -> None:
    queue = replicas.queue(max_dead_bytes=1000)
    for n in range(2):
        await queue.put([Event(f"e{n}", "m", b"x" * 5000)])
        await queue.park(await claim_one(queue), 1, "too large")
    (letter,), _ = await queue.dead_letters.page(limit=10)
    assert letter.event.id == "e1"


async def test_the_bytes_of_letters_that_are_replayed_or_dropped_are_free_again(replicas: Replicas) -> None:
    queue = replicas.queue()
    await queue.put([Event(f"e{n}", "m", b"x" * 1000) for n in range(3)])
    await queue.park(await claim_one(queue), 3, "unknown account")
    whole = (await queue.stats()).dead_bytes
    letters, _ = await queue.dead_letters.page(limit=10)
    await queue.dead_letters.drop([letters[0].id])
    assert (await queue.stats()).dead_bytes == whole * 2 // 3
    await queue.dead_letters.replay([letters[1].id])
    assert (await queue.stats()).dead_bytes == whole // 3
    await queue.dead_letters.drop([letters[2].id])
    assert (await queue.stats()).dead_bytes == 0


async def test_letters_of_an_earlier_version_are_counted(replicas: Replicas) -> None:
    queue = replicas.queue(max_dead_bytes=100_000)
    await queue.put([Event(f"e{n}", "m", b"x" * 10_000) for n in range(5)])
    await queue.park(await claim_one(queue), 5, "unknown account")
    whole = (await queue.stats()).dead_bytes
    await replicas.redis.delete("test:{q0}:dlqn")
    await queue.put([Event("e5", "m", b"x" * 10_000)])
    await queue.park(await claim_one(queue), 1, "unknown account")
    assert (await queue.stats()).dead_bytes == whole * 6 // 5


async def test_a_head_that_no_worker_survives_counts_as_well(replicas: Replicas) -> None:
    queue = replicas.queue(max_attempts=1, lease_seconds=0.05, max_dead_bytes=15_000)
    for n in range(2):
        await queue.put([Event(f"e{n}", "m", b"x" * 10_000)])
        await claim_one(queue)

        async def parked(n: int = n) -> bool:
            await queue.claim(1)
            stats = await queue.stats()
            return stats.dead + stats.dead_lost == n + 1

        await eventually(parked)
    stats = await queue.stats()
    assert (stats.dead, stats.dead_lost) == (1, 1)


async def test_only_as_many_events_are_ended_as_were_shown(replicas: Replicas) -> None:
    queue = replicas.queue()
    await queue.put([event(), event()])
    claim = await claim_one(queue)
    for wrong in (0, 3):
        with pytest.raises(ValueError, match="2 events"):
            await queue.done(claim, wrong)
    assert await queue.done(claim, 1)


async def test_audit_makes_forgotten_mailboxes_due(replicas: Replicas) -> None:
    queue = replicas.queue()
    await queue.put([event("m", "a"), event("n"), event("gone")])
    assert await queue.audit() == 0
    await replicas.redis.zrem("test:{q0}:r:", "m", "gone")
    await replicas.redis.delete("test:{q0}:m:gone")
    assert await queue.audit() == 1
    await replicas.redis.delete("test:{q0}:groups")
    assert await queue.audit() == 1
    assert await replicas.redis.zrange("test:{q0}:heads", 0, -1) == [b"m", b"n"]
    assert {claim.mailbox for claim in await queue.claim(10)} == {"m", "n"}


async def test_stats_tell_depth_age_and_state(replicas: Replicas) -> None:
    queue = replicas.queue()
    await queue.put([event("held"), event("waiting"), event("waiting")])
    claim = await claim_one(queue)
    await asyncio.sleep(0.05)
    stats = await queue.stats()
    assert (stats.pending, stats.ready, stats.leased, stats.dead) == (3, 1, 1, 0)
    assert 0.05 <= stats.oldest_seconds < 5
    await queue.retry_later(claim, 100, counted=False, reason="upstream away")
    assert (await queue.stats()).oldest_seconds >= stats.oldest_seconds, "back-off does not make an event younger"


async def test_shards_share_the_mailboxes(replicas: Replicas) -> None:
    queue = replicas.queue(shards=4)
    sent = [event(f"m{n}") for n in range(40)]
    assert await queue.put(sent) == PutResult(40, 0)
    assert await queue.put(sent) == PutResult(0, 40)
    assert (await queue.stats()).pending == 40
    claims = await queue.claim(15) + await queue.claim(100)
    assert {claim.mailbox for claim in claims} == {e.mailbox for e in sent}
    assert await queue.extend(claims) == []
    await asyncio.gather(*(queue.park(claim, 1, "all of them") for claim in claims))
    letters, cursor = [], None
    while True:
        page, cursor = await queue.dead_letters.page(limit=7, cursor=cursor)
        letters += page
        if cursor is None:
            break
    assert len({letter.id for letter in letters}) == 40
    assert await queue.dead_letters.replay([letter.id for letter in letters]) == 40
    assert (await queue.stats()).pending == 40
    assert await queue.audit() == 0


async def test_full_queue_refuses_a_put_as_a_whole_and_forgets_it(replicas: Replicas) -> None:
    queue = replicas.queue(max_pending=4)
    await queue.put([event("a:1", "kept")])
    refused = [event("b:1", "x"), event("c:1", "y"), event("d:1", "z"), event("e:1", "v")]
    results = await asyncio.gather(queue.put(refused), queue.put([event("b:1", "w")]), return_exceptions=True)
    assert isinstance(results[0], QueueFull)
    assert results[0].retry_after
    assert results[1] == PutResult(1, 0), "other puts of the same call are not affected"
    stats = await queue.stats()
    assert (stats.pending, stats.is_full) == (2, True)
    for claim in await queue.claim(10):
        await queue.done(claim)
    assert await queue.put(refused) == PutResult(4, 0), "a refused id was not marked as seen"


async def test_put_is_refused_while_events_are_put_aside_if_it_says_so(replicas: Replicas) -> None:
    queue = replicas.queue(shards=4)
    await queue.mark_aside(3600)
    results = await asyncio.gather(
        queue.put([event("a"), event("b")], unless_aside=True), queue.put([event("a"), event("b")]),
        return_exceptions=True,
    )  # fmt: skip
    assert isinstance(results[0], QueueAside)
    assert results[1] == PutResult(2, 0)
    assert (await queue.stats()).pending == 2
    await queue.mark_aside(0.001)

    async def holds_no_longer() -> bool:
        with suppress(QueueAside):
            return (await queue.put([event("a", "again")], unless_aside=True)).accepted == 1
        return False

    await eventually(holds_no_longer)


async def test_what_exceeds_a_mailbox_is_diverted_and_the_rest_of_its_delivery_is_stored(replicas: Replicas) -> None:
    queue = replicas.queue(max_per_mailbox=2)
    full = [event("a:1", f"f{n}") for n in range(3)]
    beside = [event("a:2"), event("b:1")]
    result = await queue.put([*full[:2], beside[0], full[2], beside[1]])
    assert (result.accepted, result.duplicates, result.diverted) == (4, 0, (full[2],))
    assert not (await queue.stats()).is_full
    for claim in await queue.claim(10):
        await queue.done(claim)
    assert await queue.put(full[2:]) == PutResult(1, 0), "a diverted id was not marked as seen"


async def test_a_mailbox_is_bounded_in_bytes_too(replicas: Replicas) -> None:
    queue = replicas.queue(max_mailbox_bytes=1000)
    events = [Event(f"e{n}", "a:1", bytes(size)) for n, size in enumerate((400, 400, 400, 1))]
    assert (await queue.put(events)).diverted == tuple(events[2:]), "what follows a diverted event must not overtake it"
    assert (await queue.put([Event("other", "a:2", bytes(400))])).accepted == 1


@pytest.mark.parametrize("shards", [1, 4])
async def test_a_group_may_hold_as_much_as_is_free_so_that_there_is_room_for_the_next(
    replicas: Replicas, shards: int
) -> None:
    queue = replicas.queue(max_pending=240, shards=shards)
    for group in ("a", "b", "c"):
        await queue.put([event(f"{group}:{n}") for n in range(500)])
    stats = await queue.stats()
    assert not stats.is_full
    assert abs(stats.pending - (120 + 60 + 30)) < 8, "each took what was left to it, and left as much"
    assert await queue.put([event("quiet:1")]) == PutResult(1, 0)


async def test_groups_of_several_kinds_have_one_share_of_what_follows_the_kind(replicas: Replicas) -> None:
    queue = replicas.queue(max_pending=100, one_share=("message", "status", "echo"))
    for kind in ("message", "status", "echo", "message"):
        await queue.put([event(f"{kind}:1:{n}") for n in range(100)])
    assert (await queue.stats()).pending == 50
    assert await queue.put([event(f"message:2:{n}") for n in range(25)]) == PutResult(25, 0)
    await queue.put([event(f"other:1:{n}") for n in range(100)])
    assert (await queue.stats()).pending == 88, "a kind that is not named has a share of its own"
    (claim,) = await queue.claim(1)
    await queue.done(claim)
    assert (await queue.put([event("status:1:new")])).diverted, "50 of 100 while less than that is free"


async def test_in_one_call_the_kinds_take_each_others_room(replicas: Replicas) -> None:
    queue = replicas.queue(max_pending=100, one_share=("message", "status"))
    both = [event(f"{kind}:1:{n}") for n in range(50) for kind in ("message", "status")]
    assert (await queue.put(both)).accepted == 50
    assert await queue.audit() == 0
    assert (await queue.put([event("status:1:new")])).diverted, "counted anew, it is the same share"


async def test_bytes_of_kinds_with_one_share_are_added_up(replicas: Replicas) -> None:
    queue = replicas.queue(max_bytes=100_000, one_share=("message", "status"))
    for kind in ("message", "status"):
        await queue.put([Event(f"{kind}{n}", f"{kind}:1:{n}", bytes(1000)) for n in range(60)])
    assert 45_000 < (await queue.stats()).bytes <= 51_000, "half of it, and what one event adds"
    assert (await queue.put([Event("quiet", "message:2:1", bytes(1000))])).accepted == 1


async def test_bytes_of_a_group_are_bounded_like_its_events(replicas: Replicas) -> None:
    queue = replicas.queue(max_bytes=100_000)
    loud = [Event(f"l{n}", f"loud:{n}", bytes(10_000)) for n in range(20)]
    assert (await queue.put(loud)).accepted == 5, "half of it"
    assert await queue.put([Event("q", "quiet:1", bytes(10_000))]) == PutResult(1, 0)
    with pytest.raises(QueueFull):
        await queue.put([Event("huge", "other:1", bytes(60_000))])
    assert (await queue.stats()).bytes == 6 * 10_000 + 18 * 6 + 2 * 5 + 1


async def test_room_comes_back_however_an_event_leaves_its_mailbox(replicas: Replicas) -> None:
    queue = replicas.queue(max_attempts=1, lease_seconds=0.2)
    await queue.put([event("a:1"), event("a:2"), event("a:3")])
    done, parked, crashed = await queue.claim(3)
    await queue.done(done)
    await queue.park(parked, 1, "why")
    del crashed
    await eventually(lambda: _reaped(queue))
    assert await replicas.redis.exists("test:{q0}:held", "test:{q0}:weight") == 0
    letters, _ = await queue.dead_letters.page(limit=10)
    await queue.dead_letters.replay([letter.id for letter in letters])
    held = await replicas.redis.hgetall("test:{q0}:held")
    assert held[b"events:a"] == b"2"
    assert held[b"bytes:a"] == held[b"bytes"]


async def _reaped(queue: Queue) -> bool:
    await queue.claim(1)
    return (await queue.stats()).dead == 2


async def test_counts_that_an_older_version_left_wrong_are_counted_anew(replicas: Replicas) -> None:
    queue = replicas.queue()
    await queue.put([event("a:1"), event("a:2")])
    right = await replicas.redis.hgetall("test:{q0}:held")
    await replicas.redis.hset("test:{q0}:held", mapping={"events:a": 9000, "events:gone": 70, "bytes": 10**9})
    await replicas.redis.hset("test:{q0}:weight", "gone:1", 12)
    await replicas.redis.set("test:{q0}:depth", -5)
    assert await queue.audit() == 0
    assert await replicas.redis.hgetall("test:{q0}:held") == right
    assert await replicas.redis.hlen("test:{q0}:weight") == 2
    assert (await queue.stats()).pending == 2


async def test_an_event_that_is_in_no_mailbox_can_be_made_a_dead_letter(replicas: Replicas) -> None:
    queue = replicas.queue()
    await queue.dead_letters.add(event("a:1", "buried")._replace(accepted_at=1_700_000_000.5), "unreadable")
    ((letter,), _) = await queue.dead_letters.page(limit=2)
    assert (letter.event.id, letter.event.accepted_at, letter.reason) == ("buried", 1_700_000_000.5, "unreadable")
    assert await queue.dead_letters.replay([letter.id]) == 1
    assert ids(await claim_one(queue)) == ["buried"]


async def test_its_life_is_the_same_for_every_replica_until_its_data_is_lost(replicas: Replicas) -> None:
    queue, other = replicas.queue(), replicas.queue()
    life = await queue.life()
    assert await other.life() == await queue.life() == life
    await queue.put([event("m", "a")])
    assert await queue.life() == life
    await replicas.redis.flushall()
    assert await queue.life() != life
