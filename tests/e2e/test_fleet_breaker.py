"""A wrong Gemini key over three replicas: five calls are made, and after them nobody asks any more."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import orjson
import redis

from tests.support.patience import Within
from tests.support.world import World

from .test_cli import in_here


async def _gemini_calls(world: World) -> int:
    return len(await world.sandbox.record(kind="generate"))


async def _state_on(world: World, replica: int, breaker: str = "gemini") -> str:
    health = await world.api("GET", "/health", replica=replica)
    return str(health["circuit_breakers"][breaker]["state"])


async def _until_all_say(world: World, state: str, *, seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while {await _state_on(world, replica) for replica in range(3)} != {state}:
            await asyncio.sleep(0.01)


def _redis(world: World) -> redis.Redis:
    return redis.Redis.from_url(world.fleet.settings_of_a_replica["REDIS_URL"])


def _forget_who_called(world: World) -> None:
    """Earlier tests' good calls: with them one replica alone would rightly open its own circuit only."""
    with _redis(world) as server:
        server.delete("chorus:breaker:{gemini_api}:gemini_api:c")


def _let_nobody_wait(world: World) -> None:
    """What waits for the circuit's minute is due now."""
    with _redis(world) as server:
        for schedule in server.scan_iter("chorus:{q*}:r:*"):
            prefix, _, group = schedule.decode().partition(":r:")
            for mailbox in server.zrange(schedule, 0, -1):
                server.zadd(schedule, {mailbox: 0}, xx=True)
            server.zadd(f"{prefix}:groups", {group: 0}, xx=True)


async def test_with_a_wrong_key_five_messages_fail_and_the_sixth_is_refused_without_a_call(
    world: World, within: Within
) -> None:
    _forget_who_called(world)
    dead = (await world.api("GET", "/admin/queue"))["dead"]
    before = {replica.name: len(replica.log_file.read_bytes()) for replica in world.fleet.replicas}
    began = time.monotonic()
    await world.sandbox.add_fault("gemini", gemini="api_key_invalid")
    try:
        for number in range(5):
            await world.customer(f"Customer {number}").say("Hello?")
            async with asyncio.timeout(10):
                while await _gemini_calls(world) <= number:
                    await asyncio.sleep(0.01)
                while number == 0 and not _named(world, before):
                    await asyncio.sleep(0.01)
        await _until_all_say(world, "open", seconds=within(2))
        sixth = world.customer("The sixth")
        await sixth.say("And I?")
        async with asyncio.timeout(10):
            while not await _is_waiting(world, dead):
                await asyncio.sleep(0.05)
        assert await _gemini_calls(world) == 5
        for replica in range(3):
            breakers = await world.api("GET", "/admin/breakers", replica=replica)
            assert breakers["gemini"]["failure_count"] == 5
            assert breakers["gemini"]["why"] == "failures: HTTP 400 API_KEY_INVALID"
            assert breakers["gemini"]["last_failure"] == "HTTP 400 API_KEY_INVALID"
            assert 50 - (time.monotonic() - began) < breakers["gemini"]["retry_after"] <= 60
            health = await world.api("GET", "/health", replica=replica)
            assert health["status"] == "degraded"
            assert health["circuit_breakers"]["gemini"]["why"] == "failures: HTTP 400 API_KEY_INVALID"
    finally:
        await world.sandbox.clear_faults()
        await world.api("POST", "/admin/breakers/gemini", json={"action": "auto"})
        await _until_all_say(world, "closed", seconds=10)  # one that has not heard of it would put off what is due now
        _let_nobody_wait(world)


def _named(world: World, before: dict[str, int]) -> bool:
    """Does a line of the log say why the first conversation waits?"""
    written = b"".join(replica.log_file.read_bytes()[before[replica.name] :] for replica in world.fleet.replicas)
    lines = [orjson.loads(line) for line in written.splitlines() if line.startswith(b"{") and line.endswith(b"}")]
    return any("HTTP 400 API_KEY_INVALID" in line["reason"] for line in lines if line["event"] == "handled")


async def _is_waiting(world: World, dead: int) -> bool:
    """All six conversations are in their mailboxes with their messages, none is being worked on, none is newly dead."""
    fleet = await world.api("GET", "/admin/fleet")
    queue = await world.api("GET", "/admin/queue")
    busy = sum(replica["active"] for replica in fleet["replicas"])
    return bool(queue["pending"] == 6 and busy == 0 and queue["dead"] == dead)


async def test_the_operators_word_from_the_command_line_reaches_every_replica(
    world: World, tmp_path: Path, within: Within
) -> None:
    async def say(*words: str) -> str:
        url = world.fleet.settings_of_a_replica["REDIS_URL"]
        result = await asyncio.to_thread(in_here, tmp_path, "breakers", *words, REDIS_URL=url)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert "whatsapp_api: open, forced" in await say("open", "whatsapp", "--why", "rehearsal")
    try:
        async with asyncio.timeout(within(3)):
            for replica in range(3):
                while await _state_on(world, replica, "whatsapp") != "open":
                    await asyncio.sleep(0.01)
        assert "rehearsal" in await say("list")
        assert "whatsapp_api: closed, forced" in await say("close", "whatsapp", "--why", "we know better")
        async with asyncio.timeout(within(3)):
            for replica in range(3):
                while await _state_on(world, replica, "whatsapp") != "closed":
                    await asyncio.sleep(0.01)
        assert "we know better" in await say("list")
    finally:
        assert "closed" in await say("auto", "whatsapp")
