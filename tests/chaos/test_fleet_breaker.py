"""Four processes of 32 tasks each, a real server, and an upstream that dies, hangs, flaps and recovers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.localhost.servers import Valkey
from tests.support.breaker_upstream import Child, Upstream, running_upstream

pytestmark = pytest.mark.timed

THRESHOLD = 5
SUCCESSES = 2
ALONE_SECONDS = 60
"""Without the server each of four replicas probes with a chance of a quarter each second, and needs two good ones."""
LEASE_SECONDS = 1.0
POLICY: dict[str, Any] = {
    "failure_threshold": THRESHOLD, "open_seconds": 1.0, "max_open_seconds": 2.0, "probe_lease_seconds": LEASE_SECONDS,
}  # fmt: skip
NAMES = ("a", "b", "c", "d")


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with running_upstream() as running:
        yield running


@pytest.fixture
async def fleet(upstream: Upstream, valkey_url: str) -> list[Child]:
    children = [await upstream.start_child(name, tasks=32, redis_url=valkey_url, policy=POLICY) for name in NAMES]
    await upstream.go(children)
    await upstream.until(lambda: {call.child for call in upstream.calls} == set(NAMES) and len(upstream.calls) > 2000)
    return children


async def all_are(upstream: Upstream, children: list[Child], state: str, timeout_seconds: float = 10.0) -> float:
    return await upstream.until(
        lambda: all(child.state == state for child in children), timeout_seconds=timeout_seconds
    )


def began_after(upstream: Upstream, at: float) -> list[float]:
    return [call.began - at for call in upstream.calls if call.began > at]


async def test_a_dead_upstream_is_left_alone_at_once_and_asked_by_one_at_a_time(upstream: Upstream, fleet: list[Child]):
    upstream.mode = "fail"
    await all_are(upstream, fleet, "open")
    threshold = upstream.failures()[THRESHOLD - 1].ended
    late = [seconds for seconds in began_after(upstream, threshold) if seconds < POLICY["open_seconds"] / 2]
    assert max(late, default=0.0) < 0.2
    assert len(late) <= 32
    await upstream.until(lambda: upstream.running == 0)
    upstream.most = 0
    before = len(upstream.calls)
    await upstream.until(lambda: len(upstream.calls) >= before + 2)
    assert upstream.most == 1
    upstream.mode = "ok"
    await all_are(upstream, fleet, "closed")


async def test_a_recovering_upstream_is_met_by_one_call_at_a_time_until_two_went_well(
    upstream: Upstream, fleet: list[Child]
):
    upstream.mode = "fail"
    await all_are(upstream, fleet, "open")
    await upstream.until(lambda: upstream.running == 0)
    dead = len(upstream.calls)
    await upstream.until(lambda: len(upstream.calls) > dead and upstream.running == 0)
    upstream.mode = "ok"
    await all_are(upstream, fleet, "closed")
    probes = upstream.calls[dead:]
    good = [n for n, call in enumerate(probes) if call.ok]
    closing = good[SUCCESSES - 1]
    assert good[:SUCCESSES] == list(range(good[0], closing + 1)), "in a row"
    for earlier, later in itertools.pairwise(probes[: closing + 1]):
        assert later.began >= earlier.ended, "never two at once"
    rest = probes[closing + 1 :]
    assert min(call.began for call in rest) >= probes[closing].ended, "the others only when it had closed"
    await upstream.until(lambda: {call.child for call in upstream.calls[-200:] if call.ok} == set(NAMES))


async def test_an_upstream_slower_than_the_attempt_timeout_is_as_good_as_dead(upstream: Upstream, fleet: list[Child]):
    upstream.mode = "slow"
    await all_are(upstream, fleet, "open")
    upstream.mode = "ok"
    await all_are(upstream, fleet, "closed")


async def test_a_flapping_upstream_ends_in_agreement(upstream: Upstream, fleet: list[Child]):
    for mode in ("fail", "ok", "fail", "ok"):
        upstream.mode = mode
        await all_are(upstream, fleet, "open" if mode == "fail" else "closed", timeout_seconds=15)


async def test_a_killed_prober_costs_its_lease_and_no_more(upstream: Upstream, fleet: list[Child]):
    upstream.mode = "fail"
    await all_are(upstream, fleet, "open")
    await upstream.until(lambda: upstream.running == 0)
    upstream.mode = "hang"
    before = len(upstream.calls)
    await upstream.until(lambda: len(upstream.calls) > before)
    prober = upstream.children[upstream.calls[before].child]
    prober.process.kill()
    killed = time.monotonic()
    upstream.mode = "ok"
    await upstream.until(lambda: len(upstream.calls) > before + 1)
    assert upstream.calls[before + 1].began - killed < LEASE_SECONDS + 1.0
    assert upstream.calls[before + 1].child != prober.name
    await all_are(upstream, [child for child in fleet if child is not prober], "closed")


@pytest.mark.parametrize("how", ["kill", "pause"])
@pytest.mark.parametrize("when", ["open", "half_open"])
async def test_a_server_lost_while_not_closed(
    upstream: Upstream, fleet: list[Child], valkey: Valkey, how: str, when: str
):
    """Each replica goes on by itself: careful, recovering with the upstream, in agreement once the server is back."""
    upstream.mode = "fail"
    await all_are(upstream, fleet, "open")
    if when == "half_open":
        await upstream.until(lambda: upstream.running == 0)
        upstream.mode = "hang"
        before = len(upstream.calls)
        await upstream.until(lambda: len(upstream.calls) > before)
    else:
        await upstream.until(lambda: upstream.running == 0)
    getattr(valkey, how)()
    try:
        upstream.mode = "fail"
        upstream.most = upstream.running
        began = len(upstream.calls)
        await upstream.until(lambda: len(upstream.calls) > began, timeout_seconds=15)
        held = len(NAMES) + (when == "half_open")
        await upstream.until(lambda: len(upstream.calls) >= began + 3, timeout_seconds=ALONE_SECONDS)
        assert upstream.most <= held, "each by itself probes with one call at a time"
        upstream.mode = "ok"
        await all_are(upstream, fleet, "closed", timeout_seconds=ALONE_SECONDS)
    finally:
        await asyncio.to_thread(valkey.start)
    await all_are(upstream, fleet, "closed")
    await asyncio.sleep(1.5)  # time itself: every replica has read the server's state again
    await all_are(upstream, fleet, "closed", timeout_seconds=15)


async def test_a_server_that_hangs_delays_no_call_of_a_healthy_upstream(
    upstream: Upstream, fleet: list[Child], valkey: Valkey
):
    for child in fleet:
        await child.ask("reset")
    valkey.pause()
    try:
        count = len(upstream.calls)
        await upstream.until(lambda: len(upstream.calls) > count + 5000, timeout_seconds=30)
    finally:
        await asyncio.to_thread(valkey.resume)
    for child in fleet:
        stats = await child.ask()
        assert stats["errors"] == {}
        assert stats["slowest"] < 0.5


async def test_one_replica_cut_off_from_the_upstream_does_not_stop_the_others(upstream: Upstream, fleet: list[Child]):
    cut, *others = fleet
    # The others' successes travel with the resync: for its second, a replica that fails seems to be the only one.
    await upstream.until(lambda: time.monotonic() - upstream.calls[0].began > 1.5)
    upstream.mode_of[cut.name] = "fail"
    await all_are(upstream, [cut], "open")
    count = len(upstream.calls)
    await upstream.until(lambda: len(upstream.calls) > count + 2000)
    assert all(child.state == "closed" for child in others)
    assert [(await child.ask())["errors"] for child in others] == [{}] * 3
    del upstream.mode_of[cut.name]
    await all_are(upstream, fleet, "closed")
