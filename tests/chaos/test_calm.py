"""Three replicas without crashes: counters equal the record, and one account's trouble stays its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from app.sandbox.webhooks import Business

from .scenarios import Stage
from .traffic import Message, Traffic, sender
from .world import World, running_world

pytestmark = [pytest.mark.asyncio(loop_scope="module")]

HUNG = 100
"""Conversations of one account that wait for Gemini at once; three replicas have 150 places."""
HEALTHY = 100
RATIO = 1.5
NOISE_SECONDS = 0.5
"""Below this a p99 tells more about the machine's other tenants than about us; a place that hangs costs 15 s."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    # The default lease: nothing dies here. And a debounce short enough not to hide a delay behind it.
    async with running_world(businesses=2, settings={"LEASE_SECONDS": "15", "DEBOUNCE_SECONDS": "0.2"}) as world:
        yield world


async def test_counters_equal_the_record(world: World) -> None:
    stage, before = Stage(world), await counters(world)
    conversations = [stage.conversation(3) for _ in range(20)]
    poster = sender(world.fleet.webhook_urls, app_secret=world.fleet.keys.app_secret, seed=1)
    traffic = Traffic(poster, conversations, seed=1, seconds=4, lanes=6)
    await traffic.run()
    stage.messages += traffic.messages
    await stage.ends_well()
    counted = await counters(world)
    counted.subtract(before)
    statuses = (await world.http.get(f"{world.sandbox.url}/sandbox")).json()["statuses"]
    sends = len(await world.sandbox.record(kind="send", processed="true"))
    stored = len(traffic.messages) + 3 * sends
    offered = len(traffic.messages) + traffic.repeats + statuses["delivered"]
    assert {post.status for post in poster.posts} == {200}
    assert counted["chorus_queue_events_total accepted"] == stored
    assert counted["chorus_queue_events_total duplicate"] == offered - stored
    assert counted["chorus_end_to_end_seconds_count"] == sends
    assert counted["chorus_queue_claims_total"] == sum(
        count for name, count in counted.items() if name.startswith("chorus_queue_settled_total")
    )
    queue = await world.api("GET", "/admin/queue")
    assert (queue["pending"], queue["ready"], queue["leased"], queue["dead"]) == (0, 0, 0, 0)


@pytest.mark.timed
async def test_an_account_whose_gemini_calls_hang_does_not_delay_another(world: World) -> None:
    stage, (stuck, healthy) = Stage(world), world.businesses
    without = await p99_of_replies(world, stage, healthy)
    before = (await world.sandbox.summary())["last_seq"]
    hang = await world.sandbox.add_fault("gemini", action="hang_before", match={"system_contains": "Orchard 1"})
    waiting = [stage.conversation(1, stuck)[0] for _ in range(HUNG)]
    await stage.post(*waiting, replica=0)
    # However many places one account may take, these are taken.
    await world.sandbox.wait(HUNG // 4, kind="generate", after=before)
    during = await p99_of_replies(world, stage, healthy)
    await world.sandbox.remove_fault(hang)
    await stage.ends_well()
    assert during <= RATIO * max(without, NOISE_SECONDS), (during, without)


async def p99_of_replies(world: World, stage: Stage, business: Business) -> float:
    """Seconds from the 200 to the arrival of the reply, in an even stream of `HEALTHY` customers."""
    asked: list[Message] = [stage.conversation(1, business)[0] for _ in range(HEALTHY)]
    poster = sender(world.fleet.webhook_urls, app_secret=world.fleet.keys.app_secret, seed=1)
    traffic = Traffic(poster, [[message] for message in asked], seed=1, seconds=4, lanes=6)
    await traffic.run()
    stage.messages += asked
    sends = await stage.sends(1, *asked)
    at = {str(send["to"]): float(str(send["at"])) for send in sends}
    delays = sorted(at[str(message.person.wa_id)] - traffic.accepted[message.id] for message in asked)
    return delays[math.ceil(len(delays) * 0.99) - 1]


async def counters(world: World) -> Counter[str]:
    """Over all replicas: `name` or `name label`."""
    found: Counter[str] = Counter()
    for replica in world.fleet.replicas:
        headers = {"Authorization": f"Bearer {world.fleet.keys.admin}"}
        text = (await world.http.get(f"{replica.url}/metrics", headers=headers)).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.startswith("chorus_") and not sample.name.endswith(("_created", "_bucket", "_sum")):
                    found[" ".join([sample.name, *sample.labels.values()])] += int(sample.value)
    return found
