"""What every call to Redis may rely on: bounded, cancelled for good, translated, not waited for while Redis is away."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from unittest.mock import AsyncMock
from urllib.parse import urlsplit

import pytest
import redis

from app.core.errors import Unavailable
from app.core.redis.door import Door, DoorTimings, NotAsked
from app.core.redis.listening import ListenTimings, listen
from app.core.redis.script import Script
from app.localhost.servers import Valkey
from tests.support.patience import Within
from tests.support.proxy import proxied
from tests.support.redis_topologies import wait_until

MANY = 8


@asynccontextmanager
async def door_to(url: str, *, max_connections: int = MANY, **timings: float) -> AsyncIterator[Door]:
    door = Door.to(url, timings=DoorTimings(**timings), max_connections=max_connections, name="door")
    try:
        yield door
    finally:
        await door.aclose()


def pool_of(door: Door) -> Any:
    return door._client.connection_pool


def connections_to(url: str) -> list[dict[str, str]]:
    with redis.Redis.from_url(url) as admin:
        return [each for each in admin.client_list() if each["name"] == "door"]


async def until_connected(url: str, is_so: Callable[[list[dict[str, str]]], bool]) -> None:
    """The server hears of an end that a client or a proxy made a moment later."""
    await asyncio.to_thread(wait_until, lambda: is_so(connections_to(url)), "other connections than expected")


async def echo_many(door: Door) -> None:
    """However long it takes: a busy machine is late sometimes, and the limits of a door are no subject of this."""
    said = [f"{number}" for number in range(MANY)]
    heard = await asyncio.gather(*(door.ask("ECHO", word, within_seconds=10, urgent=True) for word in said))
    assert [word.decode() for word in heard] == said


async def until_answered(door: Door) -> None:
    """Redis is there again for all who ask. On a busy machine the first answers may still be late."""
    async with asyncio.timeout(10):
        while True:
            with suppress(Unavailable):
                assert await door.ask("PING", urgent=True)
                break
    assert not door.is_away


# --- bounded, and not waited for ---


async def test_a_server_that_hangs_costs_one_call_its_limit_and_the_others_nothing(
    valkey: Valkey, valkey_url: str, within: Within
) -> None:
    async with door_to(valkey_url, answer_seconds=0.1, retry_seconds=60) as door:
        await echo_many(door)
        valkey.pause()
        with pytest.raises(Unavailable, match=r"no answer within 0\.1 s"):
            await door.ask("PING")
        assert door.is_away
        started = time.monotonic()
        for _ in range(100):
            with pytest.raises(NotAsked, match=r"no answer within 0\.1 s"):
                await door.ask("PING")
        assert time.monotonic() - started < within(0.1)
        with pytest.raises(Unavailable) as asked:
            await door.ask("PING", urgent=True)
        assert not isinstance(asked.value, NotAsked)
        valkey.resume()
        await until_answered(door)
        await echo_many(door)


async def until_away(door: Door) -> None:
    """More than once on a machine that stood still meanwhile: a limit that is noticed late says nothing about Redis."""
    while not door.is_away:
        with pytest.raises(Unavailable):
            await door.ask("PING")


async def test_while_redis_is_away_one_call_at_a_time_finds_out(valkey: Valkey, valkey_url: str) -> None:
    async with door_to(valkey_url, answer_seconds=0.2) as door:
        await echo_many(door)
        valkey.pause()
        await until_away(door)
        asked = await asyncio.gather(*(door.ask("PING") for _ in range(MANY)), return_exceptions=True)
        assert [isinstance(answer, NotAsked) for answer in asked] == [False] + [True] * (MANY - 1)
        valkey.resume()
        await until_answered(door)
        await echo_many(door)


async def test_when_the_call_that_was_to_find_out_loses_its_connection_the_next_one_asks(
    valkey: Valkey, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with door_to(valkey_url, answer_seconds=0.2) as door:
        valkey.pause()
        await until_away(door)
        valkey.resume()
        with monkeypatch.context() as cut:
            cut.setattr(door._client, "execute_command", AsyncMock(side_effect=redis.ConnectionError("cut")))
            with pytest.raises(Unavailable, match="cut"):
                await door.ask("PING")
        assert await door.ask("PING")


async def test_a_call_that_names_its_limit_is_held_to_it(valkey: Valkey, valkey_url: str, within: Within) -> None:
    async with door_to(valkey_url, answer_seconds=5) as door:
        await echo_many(door)
        valkey.pause()
        started = time.monotonic()
        with pytest.raises(Unavailable, match=r"no answer within 0\.05 s"):
            await door.ask("PING", within_seconds=0.05)
        assert time.monotonic() - started < within(0.5)
        valkey.resume()


async def test_a_time_limit_that_our_own_stall_has_used_up_says_nothing_about_redis(valkey_url: str) -> None:
    async with proxied(valkey_url) as line, door_to(line.url, answer_seconds=0.03) as door:
        await door.ask("PING", within_seconds=1)
        line.freeze()
        asking = asyncio.create_task(door.ask("PING"))
        await asyncio.sleep(0)
        time.sleep(0.1)  # time itself: the loop stands still
        with pytest.raises(Unavailable):
            await asking
        assert not door.is_away
        line.thaw()


async def test_limits_follow_the_round_trip(valkey_url: str) -> None:
    async with proxied(valkey_url) as line, door_to(line.url, answer_seconds=0.01, round_trips=30) as door:
        line.delay_seconds = 0.025
        with pytest.raises(Unavailable, match=r"no answer within 0\.01 s"):
            await door.ask("PING")
        for _ in range(2):
            await door.ask("PING", within_seconds=5, urgent=True)
        for _ in range(20):
            await door.ask("PING")  # within about 30 x 25 ms
        line.delay_seconds = 0.15
        for _ in range(10):
            await door.ask("PING", within_seconds=5, urgent=True)
        line.delay_seconds = 3.0
        with pytest.raises(Unavailable, match=r"no answer within (0\.[6-9]|1\.)"):
            await door.ask("PING", urgent=True)  # slow is not far away


async def test_a_server_too_far_away_is_not_waited_for_longer(valkey_url: str) -> None:
    limits = {"answer_seconds": 0.01, "round_trips": 3.0, "far_seconds": 0.02}
    async with proxied(valkey_url) as line, door_to(line.url, **limits) as door:
        line.delay_seconds = 0.025
        for _ in range(3):
            await door.ask("PING", within_seconds=1, urgent=True)
        assert door.round_trip_seconds > 0.02
        with pytest.raises(Unavailable, match=r"no answer within 0\.01 s"):
            await door.ask("PING", urgent=True)


async def test_the_round_trip_is_measured(valkey_url: str, within: Within) -> None:
    async with proxied(valkey_url) as line, door_to(line.url) as door:
        assert door.round_trip_seconds == 0, "not known yet"
        line.delay_seconds = 0.02
        for _ in range(3):
            await door.ask("PING")
        assert 0.02 <= door.round_trip_seconds < within(0.05)


async def test_the_round_trip_is_without_the_opening_of_a_connection(valkey_url: str) -> None:
    """Reads that are late lose their connections. Were opening one measured, their limits would stay too short."""
    async with proxied(valkey_url) as line, door_to(line.url) as door:
        line.delay_seconds = 0.05
        for _ in range(20):  # on a busy machine an answer may be late
            await pool_of(door).drop_idle(silent_since=math.inf)
            await door.ask("PING", within_seconds=20)
            if door.round_trip_seconds < 0.1:
                break
        assert 0.05 <= door.round_trip_seconds < 0.1


# --- translated ---


async def test_what_the_server_refuses_is_unavailable_and_does_not_make_it_away(valkey_url: str) -> None:
    async with door_to(valkey_url) as door:
        connection = await door.ask("CLIENT", "ID")
        with pytest.raises(Unavailable, match="unknown command"):
            await door.ask("NO-SUCH-COMMAND")
        assert not door.is_away
        assert await door.ask("CLIENT", "ID") == connection


async def test_a_script_that_the_server_has_forgotten_is_sent_again(valkey_url: str) -> None:
    async with door_to(valkey_url) as door:
        beat = Script("cache_beat")
        for _ in range(2):
            sequence, now = await door.run(beat, ["p:"])
            assert int(sequence) == int(now) > 0
            await door.ask("SCRIPT", "FLUSH")
            await door.ask("DEL", "p:seq")


async def test_a_server_that_is_not_there_is_unavailable_for_every_kind_of_call() -> None:
    async with door_to("redis://127.0.0.1:1") as door:
        for call in (
            door.ask("PING"), door.run(Script("cache_beat"), ["p:"]), door.info(),
            door.subscribe("c"), anext(aiter(door.scan("*", page=10))),
        ):  # fmt: skip
            with pytest.raises(Unavailable):
                await call


async def test_a_door_that_is_closed_asks_nothing(valkey_url: str) -> None:
    async with door_to(valkey_url) as door:
        shard = door.of_one_shard()
        await shard.ask("PING")
        await door.aclose()
        for closed in (door, shard):
            with pytest.raises(NotAsked):
                await closed.ask("PING", urgent=True)


# --- subscriptions ---


async def test_a_subscription_hears_each_message_and_ends_with_its_connection(valkey_url: str) -> None:
    async with proxied(valkey_url) as line, door_to(line.url) as door:
        subscription = await door.subscribe("news")
        heard: list[bytes] = []
        ends: list[float] = []
        checked = asyncio.Event()

        async def checking() -> None:
            await subscription.check(within_seconds=1)
            checked.set()
            await asyncio.sleep(60)

        following = asyncio.create_task(
            subscription.follow(heard.append, checking(), on_end=lambda: ends.append(time.monotonic()))
        )
        await checked.wait()
        for number in range(3):
            assert await door.ask("PUBLISH", "news", number) == 1
        await subscription.check(within_seconds=1)
        assert heard == [b"0", b"1", b"2"]
        line.cut()
        with pytest.raises(Unavailable):
            await following
        assert len(ends) == 1
        await subscription.aclose()


async def test_a_subscription_on_a_line_that_carries_nothing_is_found_out_by_asking(valkey_url: str) -> None:
    async with proxied(valkey_url) as line, door_to(line.url) as door:
        subscription = await door.subscribe("news")
        line.freeze()

        async def checking() -> None:
            await subscription.check(within_seconds=0.05)

        with pytest.raises(Unavailable, match="no answer on the subscription"):
            await subscription.follow(lambda _: None, checking(), on_end=lambda: None)
        await subscription.aclose()
        with pytest.raises(Unavailable):
            await door.subscribe("news", within_seconds=0.05)
        line.thaw()


async def test_a_channel_that_is_lost_is_caught_up_with_and_heard_again(valkey_url: str) -> None:
    """What is published while the past is read comes after it; a bug of the hearer ends nothing."""
    happened: list[str] = []

    async with proxied(valkey_url) as line, door_to(line.url) as door:

        async def on_open() -> None:
            await door.ask("PUBLISH", "news", f"m{happened.count('open')}", urgent=True)
            happened.append("open")

        def hear(message: bytes) -> None:
            happened.append(message.decode())
            if message == b"m0":
                raise ValueError("a bug")
            if message == b"m1":
                line.cut()

        async def until(event: str) -> None:
            async with asyncio.timeout(20):
                while event not in happened:
                    await asyncio.sleep(0.01)

        listening = asyncio.create_task(
            listen(door, "news", hear, on_open=on_open, on_lost=lambda: happened.append("lost"))
        )
        await until("m2")
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    told = [event for n, event in enumerate(happened) if event != "lost" or happened[n - 1] != "lost"]
    assert told == ["open", "m0", "lost", "open", "m1", "lost", "open", "m2", "lost"]


async def test_a_channel_that_is_never_open_is_told_once(valkey_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """As one that Redis' rights keep from us, while all else works."""
    rounds: list[None] = []
    patient = ListenTimings(subscribe=10)
    where = urlsplit(valkey_url)
    with redis.Redis.from_url(valkey_url) as server:
        server.execute_command("ACL", "SETUSER", "deaf", "reset", "on", "nopass", "~*", "+@all")
        try:
            async with door_to(f"redis://deaf:x@{where.hostname}:{where.port}/0") as door:
                listening = asyncio.create_task(
                    listen(door, "news", lambda _: None, beat=lambda: rounds.append(None), timings=patient)
                )
                async with asyncio.timeout(20):
                    while len(rounds) < 4:
                        await asyncio.sleep(0.01)
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
        finally:
            server.execute_command("ACL", "DELUSER", "deaf")
    (told,) = (record for record in caplog.records if record.getMessage() == "channel lost")
    assert told.__dict__["reason"] == "NoPermissionError"


# --- connections ---


async def test_commands_one_after_the_other_use_one_connection(valkey_url: str) -> None:
    async with door_to(valkey_url) as door:
        for _ in range(20):
            assert await door.ask("PING")
        assert len(connections_to(valkey_url)) == 1
        await echo_many(door)
        await echo_many(door)
        assert len(connections_to(valkey_url)) == MANY
    await until_connected(valkey_url, lambda connections: not connections)


@pytest.mark.parametrize("reset", [False, True])
async def test_idle_connections_that_were_closed_fail_no_command(valkey_url: str, *, reset: bool) -> None:
    """As a server does when it restarts or after its `timeout`, and as many a load balancer does."""
    async with proxied(valkey_url) as line, door_to(line.url) as door:
        await echo_many(door)
        line.cut(reset=reset)
        await until_connected(valkey_url, lambda connections: not connections)
        await echo_many(door)
        assert len(connections_to(valkey_url)) == MANY


async def test_those_that_have_answered_since_are_kept(valkey_url: str) -> None:
    async with door_to(valkey_url) as door:
        await echo_many(door)
        before = time.monotonic()
        kept = await asyncio.gather(*(door.ask("CLIENT", "ID") for _ in range(3)))
        await pool_of(door).drop_idle(silent_since=before)
        await until_connected(valkey_url, lambda connections: {int(each["id"]) for each in connections} == set(kept))


async def test_a_cancelled_command_leaves_its_answer_to_nobody(valkey_url: str) -> None:
    async with proxied(valkey_url) as line, door_to(line.url, max_connections=2) as door:
        assert await door.ask("PING")
        for _ in range(5):
            line.freeze()
            late = asyncio.create_task(door.ask("ECHO", "late"))
            await asyncio.sleep(0.02)
            late.cancel()
            with pytest.raises(asyncio.CancelledError):
                await late
            line.thaw()
            assert await door.ask("ECHO", "next") == b"next"


async def test_a_cancelled_command_costs_nobody_else_a_connection(valkey_url: str) -> None:
    async with proxied(valkey_url) as line, door_to(line.url) as door:
        await echo_many(door)
        before = {each["id"] for each in connections_to(valkey_url)}
        line.freeze()
        late = asyncio.create_task(door.ask("PING"))
        await asyncio.sleep(0.02)
        late.cancel()
        await asyncio.wait({late})
        line.thaw()
        await echo_many(door)
        await until_connected(valkey_url, lambda now: len(before & {each["id"] for each in now}) == MANY - 1)


async def test_a_connection_that_opens_slowly_is_there_for_the_next_command(valkey_url: str) -> None:
    """Opening one takes several answers, more than a command may take on a server at some distance."""
    async with proxied(valkey_url) as line, door_to(line.url) as door:
        line.delay_seconds = 0.01
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.015):
                await door.ask("PING")
        await asyncio.to_thread(wait_until, lambda: pool_of(door)._available_connections, "no connection was kept")
        assert await door.ask("PING")
        assert len(connections_to(valkey_url)) == 1


async def test_one_that_is_still_opening_when_it_is_closed_does_not_stay(valkey_url: str) -> None:
    async with proxied(valkey_url) as line:
        async with door_to(line.url) as door:
            line.freeze()
            waiting = asyncio.create_task(door.ask("PING"))
            await asyncio.sleep(0.02)
            await door.aclose()
            with pytest.raises(Unavailable):
                await waiting
        line.thaw()
        await until_connected(valkey_url, lambda connections: not connections)


async def test_a_connection_that_is_cut_takes_the_idle_ones_along_and_no_room_in_the_pool(valkey_url: str) -> None:
    async with proxied(valkey_url) as line, door_to(line.url) as door:
        for _ in range(3):
            await echo_many(door)
            line.freeze()
            cut = asyncio.create_task(door.ask("ECHO", "cut"))
            await asyncio.sleep(0.02)
            line.cut()
            with pytest.raises(Unavailable):
                await cut
            line.thaw()
        await echo_many(door)
        await until_connected(valkey_url, lambda connections: len(connections) == MANY)
