"""Three replicas without crashes: counters equal the record."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from .fairness import SETTINGS
from .scenarios import Stage
from .traffic import Traffic, sender
from .world import ChaosWorld, running_world

pytestmark = [pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[ChaosWorld]:
    async with running_world(businesses=2, settings=SETTINGS) as world:
        yield world


async def test_counters_equal_the_record(world: ChaosWorld) -> None:
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
    assert counted["chorus_handled_total message replied"] == sends
    assert [counted[f"chorus_stage_seconds_count {stage}"] for stage in ("load", "generate", "send")] == [sends] * 3
    assert counted["chorus_stage_seconds_count store"] >= sends
    assert counted["chorus_queue_claims_total"] == sum(
        count for name, count in counted.items() if name.startswith("chorus_queue_settled_total")
    )
    queue = await world.api("GET", "/admin/queue")
    assert (queue["pending"], queue["ready"], queue["leased"], queue["dead"]) == (0, 0, 0, 0)


async def counters(world: ChaosWorld) -> Counter[str]:
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
