"""What is told reaches readers on every replica; nothing is lost unseen, repeated, or kept without bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from app.api.routes_events import EventStream, StreamTimings
from app.core.errors import Overloaded, Unavailable
from app.core.feed import PUT, RESET, Feed, FeedLimits, Happened, Reader
from app.core.redis.door import Door
from app.core.redis.listening import ListenTimings

QUICK = FeedLimits(
    announce_seconds=0.2, most_behind=5, between_seconds=0.0, listening=ListenTimings(check=0.05, first_pause=0.02)
)


@asynccontextmanager
async def running(url: str, limits: FeedLimits = QUICK) -> AsyncIterator[Feed]:
    door = Door.to(url, name="feed-of-a-test")
    feed = Feed(door, namespace="test", limits=limits)
    following = asyncio.create_task(feed.run(lambda: None))
    try:
        yield feed
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await feed.aclose()
        await door.aclose()


async def heard(reader: Reader, count: int) -> list[Happened]:
    found: list[Happened] = []
    async with asyncio.timeout(5):
        while len(found) < count:
            found += await reader.next(5) or []
    return found


def data(happened: list[Happened]) -> list[bytes]:
    return [each.data for each in happened]


async def until(happened: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not happened():
            await asyncio.sleep(0.01)


async def test_every_reader_of_the_topic_hears_it_on_every_replica_and_no_other(valkey_url: str) -> None:
    async with running(valkey_url) as here, running(valkey_url) as there:
        readers = [await feed.open("a", last_id=None) for feed in (here, there, there)]
        other = await there.open("b", last_id=None)
        here.tell("a", b"said", b"1")
        there.tell("a", b"said", b"2")
        for reader in readers:
            assert sorted(data(await heard(reader, 2))) == [b"1", b"2"]
        assert await other.next(0.1) == []


async def test_a_topic_without_readers_costs_nothing_once_that_is_known(valkey_url: str) -> None:
    async with running(valkey_url) as feed:
        reader = await feed.open("a", last_id=None)
        await until(lambda: not feed.may_have_readers("b"))
        with redis.Redis.from_url(valkey_url) as client:
            before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
            for _ in range(100):
                feed.tell("b", b"said", b"x")
            feed.tell("a", b"said", b"y")
            assert data(await heard(reader, 1)) == [b"y"]
            assert client.info("commandstats")["cmdstat_evalsha"]["calls"] - before < 20
            assert client.keys("test:live:*") == [b"test:live:{a}"]
            assert 0 < client.pttl("test:live:{a}") <= 90_000


async def test_a_replica_that_has_just_come_asks_once_of_a_topic_without_readers(valkey_url: str) -> None:
    slow = FeedLimits(announce_seconds=60)
    async with running(valkey_url, slow) as here, running(valkey_url, slow) as there:
        await here.open("a", last_id=None)  # the channel is open
        here.tell("b", b"said", b"x")
        await until(lambda: not here.may_have_readers("b"))
        with redis.Redis.from_url(valkey_url) as client:
            before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
            here.tell("b", b"said", b"y")
            here.tell("c", b"said", b"z")
            await until(lambda: not here.may_have_readers("c"))
            assert client.info("commandstats")["cmdstat_evalsha"]["calls"] - before == 1
        reader = await there.open("b", last_id=None)
        await until(lambda: here.may_have_readers("b"))
        here.tell("b", b"said", b"1")
        assert data(await heard(reader, 1)) == [b"1"]


async def test_what_is_told_soon_after_a_call_shares_the_next_one(valkey_url: str) -> None:
    async with running(valkey_url, FeedLimits(between_seconds=0.3)) as feed:
        readers = {topic: await feed.open(topic, last_id=None) for topic in ("a", "b")}
        feed.tell("a", b"said", b"0")
        assert data(await heard(readers["a"], 1)) == [b"0"]
        with redis.Redis.from_url(valkey_url) as client:
            before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
            for n in range(1, 4):
                feed.tell("a", b"said", b"%d" % n)
                feed.tell("b", b"said", b"%d" % -n)
                await asyncio.sleep(0)  # a turn of the loop
            assert data(await heard(readers["a"], 3)) == [b"1", b"2", b"3"]
            assert data(await heard(readers["b"], 3)) == [b"-1", b"-2", b"-3"]
            assert client.info("commandstats")["cmdstat_evalsha"]["calls"] - before <= 2


async def test_what_is_told_of_one_topic_at_a_time_is_in_one_call(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Door.run
    calls: list[Any] = []

    async def noted(door: Door, script: Any, keys: Any, args: Any, **more: Any) -> Any:
        if script is PUT:
            calls.append(keys)
        return await run(door, script, keys, args, **more)

    async with running(valkey_url, FeedLimits(together=3)) as feed:
        readers = {topic: await feed.open(topic, last_id=None) for topic in ("b", "a")}
        monkeypatch.setattr(Door, "run", noted)
        for n in range(3):
            for topic in readers:
                feed.tell(topic, b"said", b"%d" % n)
        for reader in readers.values():
            assert data(await heard(reader, 3)) == [b"0", b"1", b"2"]
        assert calls == [["test:live:{a}"], ["test:live:{b}"]]


async def test_what_is_told_during_a_call_shares_the_next_one(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Door.run
    calls: list[int] = []

    async def busy(door: Door, script: Any, keys: Any, args: Any, **more: Any) -> Any:
        if script is PUT:
            calls.append(args[3])  # pairs
            if len(calls) == 1:
                feed.tell("a", b"said", b"1")
                asyncio.get_running_loop().call_later(0.05, feed.tell, "a", b"said", b"2")
        return await run(door, script, keys, args, **more)

    async with running(valkey_url, FeedLimits(between_seconds=0.5)) as feed:
        reader = await feed.open("a", last_id=None)
        monkeypatch.setattr(Door, "run", busy)
        feed.tell("a", b"said", b"0")
        assert data(await heard(reader, 3)) == [b"0", b"1", b"2"]
        assert calls == [1, 2]


async def test_what_a_replica_told_last_is_heard_on_the_others(valkey_url: str) -> None:
    async with running(valkey_url) as there:
        reader = await there.open("a", last_id=None)
        async with running(valkey_url, FeedLimits(between_seconds=0.3)) as here:
            for said in (b"1", b"2"):
                here.tell("a", b"said", said)
                await asyncio.sleep(0.05)  # the first goes at once, the second waits
        assert data(await heard(reader, 2)) == [b"1", b"2"]


async def test_what_was_known_of_a_topic_ends_with_the_channel(valkey_url: str) -> None:
    async with running(valkey_url, FeedLimits(announce_seconds=60)) as feed:
        await feed.open("a", last_id=None)
        feed.tell("b", b"said", b"x")
        await until(lambda: not feed.may_have_readers("b"))
        with redis.Redis.from_url(valkey_url) as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: feed.may_have_readers("b"))


async def test_who_comes_back_gets_what_was_missed_once_and_in_order(valkey_url: str) -> None:
    async with running(valkey_url) as here, running(valkey_url) as there:
        reader, witness = await here.open("a", last_id=None), await there.open("a", last_id=None)
        feeds = (here, there)
        here.tell("a", b"said", b"0")
        (first,) = await heard(reader, 1)
        await heard(witness, 1)
        reader.close()
        for n in range(1, 4):
            feeds[n % 2].tell("a", b"said", b"%d" % n)
            await heard(witness, 1)
        back = await there.open("a", last_id=first.id.decode())
        here.tell("a", b"said", b"4")
        assert data(await heard(back, 4)) == [b"1", b"2", b"3", b"4"]
        nothing_new = await there.open("a", last_id=back.newest.decode())
        assert RESET not in [each.event for each in await nothing_new.next(0.1) or []]


@pytest.mark.parametrize("last_id", ["1-0", "0-0", "18446744073709551616-0", "1-18446744073709551616"])
async def test_an_id_that_is_not_known_any_more_means_load_again(valkey_url: str, last_id: str) -> None:
    async with running(valkey_url) as feed:
        reader = await feed.open("a", last_id=last_id)
        assert [each.event for each in await heard(reader, 1)] == [RESET]
        feed.tell("a", b"said", b"1")
        assert data(await heard(reader, 1)) == [b"1"]


async def test_a_slow_reader_is_cut_and_the_others_go_on(valkey_url: str) -> None:
    async with running(valkey_url) as feed:
        slow, quick = await feed.open("a", last_id=None), await feed.open("a", last_id=None)
        for n in range(QUICK.most_behind + 1):
            feed.tell("a", b"said", b"%d" % n)
            await heard(quick, 1)
        assert not slow.is_open
        assert await slow.next(1) is None
        assert feed.readers == 1
        feed.tell("a", b"said", b"more")
        assert data(await heard(quick, 1)) == [b"more"]


async def test_there_is_a_most_of_readers(valkey_url: str) -> None:
    async with running(valkey_url, FeedLimits(most_readers=1)) as feed:
        only = await feed.open("a", last_id=None)
        with pytest.raises(Overloaded):
            await feed.open("a", last_id=None)
        only.close()
        only.close()
        (await feed.open("a", last_id=None)).close()
        assert feed.readers == 0


async def test_the_readers_of_one_topic_leave_room_to_those_of_others(valkey_url: str) -> None:
    async with running(valkey_url, FeedLimits(most_of_topic=2)) as feed:
        first, second = [await feed.open("a", last_id=None) for _ in range(2)]
        with pytest.raises(Overloaded):
            await feed.open("a", last_id=None)
        (await feed.open("b", last_id=None)).close()
        first.close()
        (await feed.open("a", last_id=None)).close()
        second.close()
        assert feed.readers == 0


async def test_what_happened_while_the_channel_was_lost_is_told_when_it_is_back(valkey_url: str) -> None:
    async with running(valkey_url) as here, running(valkey_url) as there:
        reader = await here.open("a", last_id=None)
        there.tell("a", b"said", b"0")
        await heard(reader, 1)
        with redis.Redis.from_url(valkey_url) as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            for n in range(1, 4):  # as another replica does
                client.eval("return redis.call('XADD', KEYS[1], '*', 'e', 'said', 'd', ARGV[1])", 1, "test:live:{a}", n)
        assert data(await heard(reader, 3)) == [b"1", b"2", b"3"]
        there.tell("a", b"said", b"4")
        assert data(await heard(reader, 1)) == [b"4"]


async def test_what_redis_could_not_take_becomes_a_reset(valkey_url: str) -> None:
    async with running(valkey_url) as feed:
        reader = await feed.open("a", last_id=None)
        with redis.Redis.from_url(valkey_url) as client:
            client.config_set("maxmemory", 1)
            try:
                feed.tell("a", b"said", b"lost")
                await until(lambda: not feed._putting)  # refused; the reset may follow at once
            finally:
                client.config_set("maxmemory", 0)
        assert [each.event for each in await heard(reader, 1)] == [RESET]
        feed.tell("a", b"said", b"1")
        assert data(await heard(reader, 1)) == [b"1"]


async def test_what_is_lost_while_a_reset_is_on_its_way_becomes_another_one(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(valkey_url) as feed:
        reader = await feed.open("a", last_id=None)
        run, resets = Door.run, 0

        async def troubled(door: Door, script: Any, keys: Any, args: Any, **more: Any) -> Any:
            nonlocal resets
            if script is not PUT:
                return await run(door, script, keys, args, **more)
            if args[3]:  # pairs
                raise Unavailable("redis", "it takes nothing")
            resets += 1
            answer = await run(door, script, keys, args, **more)
            if resets == 1:
                feed.tell("a", b"said", b"lost, too")
                await until(lambda: not feed._putting)
            return answer

        monkeypatch.setattr(Door, "run", troubled)
        feed.tell("a", b"said", b"lost")
        assert [each.event for each in await heard(reader, 2)] == [RESET, RESET]


# -- the answer that a browser reads


class Client:
    """The other end of an ASGI answer."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def text(self) -> str:
        return b"".join(each.get("body", b"") for each in self.sent).decode()

    def answer(self, stream: EventStream) -> Awaitable[None]:
        return asyncio.ensure_future(stream({"type": "http"}, self.receive, self.send))


async def yes() -> bool:
    return True


async def test_the_answer_is_a_stream_of_events_with_heartbeats(valkey_url: str) -> None:
    async with running(valkey_url) as feed:
        reader, client = await feed.open("a", last_id=None), Client()
        answering = client.answer(EventStream(reader, yes, timings=StreamTimings(heartbeat_seconds=0.05)))
        feed.tell("a", b"said", b'{"a":1}')
        await until(lambda: "event: said" in client.text and client.text.count("\n:\n") >= 2)
        headers = dict(client.sent[0]["headers"])
        assert headers[b"content-type"].startswith(b"text/event-stream")
        assert headers[b"cache-control"] == b"no-store"
        assert b"content-length" not in headers
        assert client.text.startswith(f"retry: 1000\nid: {reader.newest.decode()}\n\n")
        assert '\nevent: said\ndata: {"a":1}\n\n' in client.text
        client.gone.set()  # a tab that is closed leaks nothing
        async with asyncio.timeout(5):
            await answering
        assert feed.readers == 0
        assert {task.get_name() for task in asyncio.all_tasks() if "until_gone" in str(task.get_coro())} == set()


async def test_who_is_no_member_any_more_is_cut(valkey_url: str) -> None:
    members = {"ada"}

    async def is_member() -> bool:
        return "ada" in members

    async with running(valkey_url) as feed:
        reader, client = await feed.open("a", last_id=None), Client()
        timings = StreamTimings(heartbeat_seconds=0.02, look_seconds=(0.05, 0.05))
        answering = client.answer(EventStream(reader, is_member, timings=timings))
        await asyncio.sleep(0.2)  # time itself: several looks
        assert reader.is_open
        members.clear()
        async with asyncio.timeout(5):
            await answering
        assert client.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
        assert feed.readers == 0


async def test_a_draining_replica_lets_its_readers_go_and_new_ones_at_once(valkey_url: str) -> None:
    async with running(valkey_url) as feed:
        answers = [Client().answer(EventStream(await feed.open("a", last_id=None), yes)) for _ in range(20)]
        feed.drain(0.1)
        async with asyncio.timeout(5):
            await asyncio.gather(*answers)
        late = Client()
        await late.answer(EventStream(await feed.open("a", last_id=None), yes, ends_at_once=feed.is_draining))
        assert late.text.startswith("retry: 1000\nid: ")
        assert feed.readers == 0
