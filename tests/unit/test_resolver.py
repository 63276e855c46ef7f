"""A name that hangs costs only those who ask for it; what was known serves while the name server has trouble."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from app.core import resolver as resolver_module
from app.core.resolver import FRESH_SECONDS, MAX_LOOKUPS, STALE_SECONDS, Resolver
from tests.support.fakes import FakeClock

ANSWER = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 80))]


class NameServer:
    """Hangs for the names in `hanging`, fails for those in `errors`, and answers for all others."""

    def __init__(self) -> None:
        self.hanging: set[str] = set()
        self.errors: dict[str, int] = {}
        self.asked: Counter[str] = Counter()
        self.release = threading.Event()

    def __call__(self, host: str, port: Any, **_hints: int) -> Any:
        self.asked[host] += 1
        if host in self.hanging:
            self.release.wait(30)
        if host in self.errors:
            raise socket.gaierror(self.errors[host], "as told")
        return ANSWER


@pytest.fixture
def server() -> Iterator[NameServer]:
    made = NameServer()
    yield made
    made.release.set()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def resolver(server: NameServer, clock: FakeClock) -> Resolver:
    return Resolver(server, clock)


async def test_names_that_hang_delay_no_other_name(server: NameServer, resolver: Resolver) -> None:
    server.hanging = {f"upstream{n}" for n in range(12)}
    stuck = [asyncio.create_task(resolver.addresses(name, 443)) for name in server.hanging]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        assert await resolver.addresses("redis", 6379) == ANSWER
    assert not any(task.done() for task in stuck)
    server.release.set()
    assert await asyncio.gather(*stuck) == [ANSWER] * 12


async def test_side_by_side_one_look_up_serves_all_and_is_fresh_for_a_moment(
    server: NameServer, resolver: Resolver, clock: FakeClock
) -> None:
    await asyncio.gather(*(resolver.addresses("redis", 6379) for _ in range(50)))
    clock.advance(FRESH_SECONDS - 0.1)
    await resolver.addresses("redis", 6379)
    assert server.asked["redis"] == 1
    clock.advance(0.2)
    await resolver.addresses("redis", 6379)
    assert server.asked["redis"] == 2


@pytest.mark.parametrize("trouble", ["hangs", "fails"])
async def test_the_last_answer_serves_while_the_name_server_has_trouble(
    server: NameServer, resolver: Resolver, clock: FakeClock, trouble: str
) -> None:
    await resolver.addresses("redis", 6379)
    clock.advance(FRESH_SECONDS + 1)
    if trouble == "hangs":
        server.hanging.add("redis")
    else:
        server.errors["redis"] = socket.EAI_AGAIN
    async with asyncio.timeout(10):
        for _ in range(3):
            assert await resolver.addresses("redis", 6379) == ANSWER
    clock.advance(STALE_SECONDS)
    if trouble == "fails":
        with pytest.raises(socket.gaierror):
            await resolver.addresses("redis", 6379)


async def test_a_look_up_that_hangs_is_waited_for_once(
    server: NameServer, resolver: Resolver, clock: FakeClock
) -> None:
    """Only the first one waits for the patience; whoever comes later knows that it is used up."""
    await resolver.addresses("redis", 6379)
    clock.advance(FRESH_SECONDS + 1)
    server.hanging.add("redis")
    await resolver.addresses("redis", 6379)
    clock.advance(1)
    async with asyncio.timeout(resolver_module.PATIENCE_SECONDS / 2):
        assert await resolver.addresses("redis", 6379) == ANSWER
    assert server.asked["redis"] == 2


async def test_a_name_that_does_not_exist_any_more_is_an_error_at_once(
    server: NameServer, resolver: Resolver, clock: FakeClock
) -> None:
    await resolver.addresses("redis", 6379)
    clock.advance(FRESH_SECONDS + 1)
    server.errors["redis"] = socket.EAI_NONAME
    for _ in range(2):
        with pytest.raises(socket.gaierror) as raised:
            await resolver.addresses("redis", 6379)
        assert raised.value.errno == socket.EAI_NONAME


async def test_a_first_look_up_that_hangs_fails_in_time(
    server: NameServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver_module, "LOOKUP_SECONDS", 0.05)
    server.hanging.add("redis")
    with pytest.raises(socket.gaierror) as raised:
        await resolver.addresses("redis", 6379)
    assert raised.value.errno == socket.EAI_AGAIN


async def test_threads_and_answers_are_bounded(
    server: NameServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver_module, "MAX_NAMES", 10)
    for number in range(30):
        await resolver.addresses(f"host{number}", 1)
    assert len(resolver._names) == 10
    server.hanging = {f"upstream{n}" for n in range(MAX_LOOKUPS + 1)}
    stuck = [asyncio.create_task(resolver.addresses(f"upstream{n}", 443)) for n in range(MAX_LOOKUPS)]
    await asyncio.sleep(0)
    with pytest.raises(socket.gaierror, match="too many"):
        await resolver.addresses(f"upstream{MAX_LOOKUPS}", 443)
    server.release.set()
    await asyncio.gather(*stuck)
    assert await resolver.addresses(f"upstream{MAX_LOOKUPS}", 443) == ANSWER


async def test_one_source_of_slow_names_leaves_look_ups_to_the_others(server: NameServer, resolver: Resolver) -> None:
    server.hanging = {f"slow{n}.{source}" for n in range(MAX_LOOKUPS) for source in "abc"}
    stuck = []
    for source in "abc":
        for number in range(MAX_LOOKUPS):
            name = f"slow{number}.{source}"
            stuck.append(asyncio.create_task(resolver.addresses(name, 443, source)))
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        assert await resolver.addresses("well", 443, "another") == ANSWER
        with pytest.raises(socket.gaierror, match="too many"):
            await resolver.addresses("another-name", 443, "a")
        server.release.set()
        results = await asyncio.gather(*stuck, return_exceptions=True)
        assert [results[n * MAX_LOOKUPS :][:MAX_LOOKUPS].count(ANSWER) for n in range(3)] == [16, 8, 4]
        assert await resolver.addresses("another-name", 443, "a") == ANSWER
    assert not resolver._of_source


async def test_a_caller_that_is_cancelled_ends_nobody_elses_look_up(server: NameServer, resolver: Resolver) -> None:
    server.hanging.add("redis")
    first, second = (asyncio.create_task(resolver.addresses("redis", 6379)) for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    server.release.set()
    assert await second == ANSWER
    assert server.asked["redis"] == 1
