"""200 connections of strangers against a real replica: its memory and its answers stay as they were.

Figures: `pytest -s tests/e2e/test_attacks.py`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.localhost.fleet import LocalFleet, Served
from app.localhost.processes import HAS_PROC
from app.localhost.servers import EmbeddedServers
from app.sandbox import webhooks as wa
from tests.support.attackers import ATTACKS
from tests.support.world import World

ATTACK_SECONDS = 2.0
MAX_GROWTH_MB = 64
MAX_LIVE_SECONDS = 0.1

pytestmark = pytest.mark.skipif(not HAS_PROC, reason="reads /proc")


def rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


async def live(port: int) -> float:
    """Seconds until /health/live has answered on a new connection."""
    started = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    try:
        async with asyncio.timeout(10):
            answer = await reader.read()
    finally:
        writer.close()
    assert answer.startswith(b"HTTP/1.1 200"), answer
    return time.monotonic() - started


@pytest.fixture(scope="module")
def victim(servers_and_fleet: tuple[EmbeddedServers, LocalFleet]) -> Iterator[Served]:
    """A replica of its own, which leaves with these tests."""
    _, fleet = servers_and_fleet
    replica = fleet.add_replica(len(fleet.replicas) + 1)
    try:
        yield replica
    finally:
        fleet.replicas.remove(replica)
        replica.stop()


async def attacked(victim: Served, name: str, baseline: float) -> tuple[float, float]:
    """(the most memory in MB above `baseline`, the time within which 95 of 100 /health/live were answered)"""
    assert victim.pid is not None
    before = most = rss_mb(victim.pid)
    times: list[float] = []
    script = Path(__file__).parents[1] / "support" / "attackers.py"
    attackers = await asyncio.create_subprocess_exec(
        sys.executable, script, str(victim.port), str(ATTACK_SECONDS), name
    )
    try:
        while attackers.returncode is None:
            most = max(most, rss_mb(victim.pid))
            times.append(await live(victim.port))
            await asyncio.sleep(0.02)
    finally:
        if attackers.returncode is None:
            attackers.kill()
        await attackers.wait()
    assert attackers.returncode == 0
    times.sort()
    p95 = times[int(len(times) * 0.95)]
    sys.stdout.write(
        f"{name:32} {before:4.0f} MB, at most +{most - baseline:3.0f} of the start; {len(times)} x /health/live: median"
        f" {times[len(times) // 2] * 1000:3.0f}, p95 {p95 * 1000:3.0f}, worst {times[-1] * 1000:3.0f} ms\n"
    )
    return most - baseline, p95


@pytest.fixture(scope="module")
def baseline(victim: Served) -> float:
    """MB before the first attack: what an attack leaves behind counts for those after it."""
    assert victim.pid is not None
    return rss_mb(victim.pid)


@pytest.mark.parametrize("name", ATTACKS)
async def test_strangers_cost_no_memory_and_stop_no_webhook(
    world: World, victim: Served, baseline: float, name: str
) -> None:
    growth, _ = await attacked(victim, name, baseline)
    assert growth <= MAX_GROWTH_MB
    customer = world.customer("Amina")
    message = wa.text(customer.person, "Where are you?")
    payload = wa.envelope(wa.messages_change(world.business, [message], [customer.person]))
    assert (await world.post(payload, replica=len(world.fleet.replicas) - 1)).status_code == 200


@pytest.mark.timed
@pytest.mark.parametrize("name", ATTACKS)
async def test_strangers_cost_no_time(victim: Served, baseline: float, name: str) -> None:
    _, p95 = await attacked(victim, name, baseline)
    assert p95 <= MAX_LIVE_SECONDS
