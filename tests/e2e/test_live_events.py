"""The live stream: what any replica does is seen on every other, and the death of one loses and repeats none of it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from app.localhost.fleet import get_status
from tests.support.balancer import balancer, needs_haproxy
from tests.support.event_stream import listening
from tests.support.patience import Within
from tests.support.world import World

AT_ONCE_SECONDS = 0.5


def address(world: World, replica: int) -> str:
    return f"{world.fleet.replicas[replica].url}/events?account_id={world.account['id']}"


async def test_what_a_customer_writes_to_any_replica_is_seen_on_another(world: World) -> None:
    async with (
        listening(address(world, 0), world.operator) as first,
        listening(address(world, 1), world.operator) as other,
    ):
        customer = world.customer("Amina", 2)
        await customer.say("Are you open on Sunday?")
        for source in (first, other):
            received, sent = await source.until(2, "message.received", "message.sent")
            conversation = await world.conversation_of(customer)
            assert (received.event, sent.event) == ("message.received", "message.sent")
            for seen in (received, sent):
                assert seen.data["type"] == seen.event
                assert seen.data["account_id"] == world.account["id"]
                assert seen.data["conversation_id"] == conversation["id"]
                assert seen.data["message_id"]
                assert seen.data["at"]
        await world.until_idle()
        await first.until(1, "message.status")
        async with asyncio.timeout(10):  # each hears of it on a line of its own
            while [seen.id for seen in first.seen] != [seen.id for seen in other.seen]:
                await asyncio.sleep(0.01)


async def test_people_and_profiles_are_seen_too(world: World) -> None:
    customer = world.customer()
    await customer.say("Hello")
    await world.until_idle()
    conversation = (await world.conversation_of(customer))["id"]
    async with listening(address(world, 1), world.operator) as source:
        await world.api("POST", f"/conversations/{conversation}/bot", json={"enabled": False})
        await world.api("PUT", f"/bot/profile?account_id={world.account['id']}", json={"hours": "9-5"}, replica=2)
        await world.api("POST", f"/conversations/{conversation}/messages", json={"text": "I am here"}, status=202)
        await source.until(1, "message.sent")
        # Different replicas tell of them, each behind its own answer: which one comes first is not said.
        (switched,) = await source.until(1, "conversation.bot_switched")
        (changed,) = await source.until(1, "profile.changed")
        assert switched.data["bot_enabled"] is False
        assert changed.data["conversation_id"] is None


async def test_a_message_is_seen_at_once_after_the_webhooks_200(world: World, within: Within) -> None:
    async with listening(address(world, 0), world.operator) as source:
        # The bot waits for a second message; people who watch do not (`EarlyRecord`).
        waits = []
        for n in range(5):
            customer = world.customer(f"Amina {n}", 1 + n % 2)
            await customer.say(f"message {n}")
            accepted = time.monotonic()
            seen = (await source.until(n + 1, "message.received"))[-1]
            waits.append(seen.at - accepted)
        print(f"\nfrom the 200 to the reader: {[round(wait, 3) for wait in waits]} s")
        assert sorted(waits)[-2] < within(AT_ONCE_SECONDS)


@needs_haproxy
async def test_the_serving_replica_dies_and_another_goes_on_where_it_was(world: World, tmp_path: Path) -> None:
    """Behind the balancer that ships. Changes go on all the time, on the replicas that live."""
    fleet = world.fleet
    with balancer([replica.port for replica in fleet.replicas], tmp_path) as front:
        url = f"{front.url}/events?account_id={world.account['id']}"
        profile = f"/bot/profile?account_id={world.account['id']}"
        async with listening(url, world.operator) as source:
            serving = await serving_replica(world)
            writer = (serving + 1) % 3

            async def change(text: str) -> None:
                await world.api("PUT", profile, json={"hours": text}, replica=writer)
                await asyncio.sleep(0.1)  # time itself: changes that come while the stream is away

            for n in range(3):
                await change(f"before {n}")
            fleet.replicas[serving].kill()
            died = time.monotonic()
            for n in range(20):
                await change(f"after {n}")
            seen = await source.until(23, "profile.changed")
            back = next(each.at for each in seen if each.at > died + 0.2)
            print(f"\nlive again {back - died:.1f} s after the kill, {source.opened} streams")
            assert source.opened == 2
            assert source.of("reset") == []
            assert len(seen) == 23
            assert len({each.id for each in seen}) == 23
            assert [each.id for each in seen] == sorted((each.id for each in seen), key=place)


@needs_haproxy
async def test_a_draining_replica_sends_its_readers_to_another(world: World, tmp_path: Path) -> None:
    fleet = world.fleet
    with balancer([replica.port for replica in fleet.replicas], tmp_path) as front:
        url = f"{front.url}/events?account_id={world.account['id']}"
        async with listening(url, world.operator) as source:
            serving = await serving_replica(world)
            replica = fleet.replicas[serving]
            replica.ask_to_stop()
            async with asyncio.timeout(10):
                while source.opened < 2:
                    await asyncio.sleep(0.02)
            await asyncio.to_thread(replica.wait, 30)
            assert replica.exit_code == 0, replica.log_tail()
            await world.api(
                "PUT", f"/bot/profile?account_id={world.account['id']}", json={"hours": "x"}, replica=(serving + 1) % 3
            )
            await source.until(1, "profile.changed")
            assert source.of("reset") == []
            assert set(source.statuses) == {200}
        await asyncio.to_thread(replica.start)
        assert get_status(replica.port, "/health/ready") == 200


async def serving_replica(world: World) -> int:
    """The one with the only stream, once those of the tests before have ended there."""
    async with asyncio.timeout(10):
        while len(found := [n for n in range(3) if await streams(world, n)]) != 1:
            await asyncio.sleep(0.05)
    return found[0]


async def streams(world: World, replica: int) -> int:
    text = (await world.http.get(f"{world.fleet.replicas[replica].url}/metrics", headers=world.operator)).text
    return int(next(float(line.split()[1]) for line in text.splitlines() if line.startswith("chorus_feed_readers ")))


def place(id_: str) -> tuple[int, ...]:
    return tuple(map(int, id_.split("-")))
