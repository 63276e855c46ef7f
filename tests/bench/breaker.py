"""The fleet's circuit breaker beside its peers: what a call costs, and what an outage looks like from the upstream.

    python -m tests.bench.breaker      # peers: interlock-cb purgatory pybreaker aiobreaker circuitbreaker hyx

A peer that is not installed is left out and said to be.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for part in ("backend", "tests"):
    sys.path.insert(0, str(ROOT / part))

from app.core.circuit_breaker import JOIN_SECONDS, BreakerFleet, BreakerPolicy, CircuitBreaker  # noqa: E402
from app.core.errors import Unavailable  # noqa: E402
from app.core.redis import connect  # noqa: E402
from app.sandbox.servers import Valkey, remove_data  # noqa: E402
from app.sandbox.servers.location import locate  # noqa: E402
from breaker_upstream import Child, Upstream, running_upstream  # noqa: E402
from tests.bench import breaker_peers  # noqa: E402

CALLS = 20_000
ROUNDS = 7
THRESHOLD = 5
POLICY: dict[str, Any] = {
    "failure_threshold": THRESHOLD,
    "open_seconds": 2.0,
    "max_open_seconds": 2.0,
    "probe_lease_seconds": 1.0,
}
INCIDENT_SECONDS = 13.0

Call = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


async def ok() -> int:
    return 1


async def fail() -> int:
    raise Unavailable("x")


async def micros(step: Callable[[], Awaitable[Any]], *, swallow: bool) -> float:
    """The best of some rounds, per call: what the machine's other work adds is not the breaker's."""
    best = float("inf")
    for _ in range(ROUNDS):
        gc.collect()
        gc.disable()
        began = time.perf_counter()
        if swallow:
            for _ in range(CALLS):
                try:  # noqa: SIM105  suppress() costs as much as what is measured
                    await step()
                except Exception:  # noqa: BLE001
                    pass
        else:
            for _ in range(CALLS):
                await step()
        best = min(best, (time.perf_counter() - began) / CALLS)
        gc.enable()
    return best * 1e6


async def cost_of_a_call(redis_url: str) -> list[str]:
    lines = [f"{'':34} {'closed, over a bare await':>26} {'rejection':>10} {'round trips':>12}"]
    bare = await micros(ok, swallow=False)
    redis, push = connect(redis_url, timeout_seconds=JOIN_SECONDS), connect(redis_url, timeout_seconds=1)
    policy = BreakerPolicy(THRESHOLD, 600.0, failure_rate=0.5, slow_call_seconds=10.0)
    breaker = CircuitBreaker("bench", policy)
    fleet = BreakerFleet(redis, push, namespace="bench", replica_id="bench")
    fleet.join(breaker)
    await fleet.sync()

    async def commands() -> int:
        return int((await redis.info("stats"))["total_commands_processed"])

    before = await commands()
    closed = await micros(lambda: breaker.call_async(ok), swallow=False)
    used = await commands() - before - 1
    for _ in range(THRESHOLD):
        with suppress(Unavailable):
            await breaker.call_async(fail)
    rejection = await micros(lambda: breaker.call_async(ok), swallow=True)
    lines.append(f"{'Chorus, shared, every rule on':34} {closed - bare:>23.2f} µs {rejection:>7.2f} µs {used:>12}")
    await fleet.leave()
    await redis.aclose()
    await push.aclose()
    for name, make in breaker_peers.LOCAL.items():
        try:
            call = make()
        except ImportError as exc:
            lines.append(f"{name:34} not installed ({exc.name})")
            continue
        closed = await micros(lambda call=call: call(ok), swallow=False)
        for _ in range(THRESHOLD + 1):
            with suppress(Exception):
                await call(fail)
        rejection = await micros(lambda call=call: call(ok), swallow=True)
        lines.append(f"{name:34} {closed - bare:>23.2f} µs {rejection:>7.2f} µs {'-':>12}")
    lines.append(f"{'a bare await':34} {bare:>23.2f} µs")
    return lines


async def children_of(upstream: Upstream, driver: str, redis_url: str, python: str) -> list[Child]:
    children = [
        await upstream.start_child(
            name, tasks=32 if name != "quiet" else 0, redis_url=redis_url, policy=POLICY, driver=driver, python=python
        )
        for name in ("a", "b", "c", "d", "quiet")
    ]
    await upstream.go(children)
    return children


async def incident(driver: str, redis_url: str) -> str:
    """Healthy, dead for most of 13 s, healthy again; seen from the upstream. The quiet replica calls nobody."""
    async with running_upstream() as upstream:
        redis = connect(redis_url, timeout_seconds=1)
        await redis.flushall()
        children = await children_of(upstream, driver, redis_url, sys.executable)
        quiet = children[-1]
        await asyncio.sleep(2.5)
        trips = [(await child.ask())["round_trips"] for child in children[:4]]
        commands = int((await redis.info("stats"))["total_commands_processed"])
        began = time.monotonic()
        upstream.mode = "fail"
        await asyncio.sleep(1.5)
        threshold = upstream.failures()[THRESHOLD - 1].ended
        late = [call.began - threshold for call in upstream.calls if threshold < call.began < threshold + 1.4]
        learned = [at - threshold for state, at in quiet.states if state == "open"]
        await upstream.until(lambda: upstream.running == 0)
        upstream.most = 0
        await asyncio.sleep(max(0.0, began + 9.0 - time.monotonic()))
        probes = upstream.most
        upstream.mode = "ok"
        await asyncio.sleep(max(0.0, began + INCIDENT_SECONDS - time.monotonic()))
        used = sum([(await child.ask())["round_trips"] for child in children[:4]]) - sum(trips)
        commands = int((await redis.info("stats"))["total_commands_processed"]) - commands
        closed = all(child.state == "closed" for child in children[:4])
        await redis.aclose()
    return (
        f"{driver.partition(':')[2]:20} {len(late):>6} {max(late, default=0.0) * 1e3:>9.1f} ms"
        f" {learned[0] * 1e3 if learned else float('nan'):>9.1f} ms {probes:>7} {used:>8.0f} {commands:>9}"
        f" {'yes' if closed else 'no':>7}"
    )


async def killed_prober(redis_url: str) -> str:
    async with running_upstream() as upstream:
        children = await children_of(upstream, "breaker_drivers:Chorus", redis_url, sys.executable)
        await asyncio.sleep(1)
        upstream.mode = "fail"
        await upstream.until(lambda: all(child.state == "open" for child in children))
        await upstream.until(lambda: upstream.running == 0)
        upstream.mode, before = "hang", len(upstream.calls)
        await upstream.until(lambda: len(upstream.calls) > before)
        upstream.children[upstream.calls[before].child].process.kill()
        killed = time.monotonic()
        await upstream.until(lambda: len(upstream.calls) > before + 1)
        return f"prober killed: next probe after {upstream.calls[before + 1].began - killed:.2f} s (lease 1 s)"


async def hung_redis(server: Valkey) -> str:
    async with running_upstream() as upstream:
        children = await children_of(upstream, "breaker_drivers:Chorus", server.url, sys.executable)
        await asyncio.sleep(2)
        for child in children:
            await child.ask("reset")
        await asyncio.sleep(3)
        normal = max([(await child.ask())["slowest"] for child in children])
        for child in children:
            await child.ask("reset")
        server.pause()
        await asyncio.sleep(3)
        hung = max([(await child.ask())["slowest"] for child in children])
        server.resume()
        return (
            f"Redis hung 3 s, upstream healthy: worst call {hung * 1e3:.0f} ms; in the 3 s before {normal * 1e3:.0f} ms"
        )


async def measure() -> list[str]:
    folder = Path(tempfile.mkdtemp(prefix="chorus-bench-"))
    folder.chmod(0o711)
    server = Valkey(locate(folder))
    server.start()
    try:
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        lines = [f"load {load} on {os.cpu_count()} cores", *await cost_of_a_call(server.url), ""]
        lines.append("4 processes x 32 tasks, upstream dead; calls begun after the fifth failure, the last of them;")
        lines.append(
            "a replica that calls nobody learns; probes at once; round trips of 4 replicas and commands of all in 13 s"
        )
        for driver in ("breaker_drivers:Chorus", "breaker_drivers:ChorusWithoutPush", *breaker_peers.SHARED):
            try:
                lines.append(await incident(driver, server.url))
            except (TimeoutError, IndexError):
                lines.append(f"{driver.partition(chr(58))[2]:20} did not get through it, or is not installed")
        lines += [await killed_prober(server.url), await hung_redis(server)]
    finally:
        server.stop()
        remove_data(folder)
    return lines


def run() -> list[str]:
    return asyncio.run(measure())


if __name__ == "__main__":
    sys.stdout.write("\n".join(run()) + "\n")
