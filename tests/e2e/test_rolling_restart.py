"""Three replicas are replaced one after the other, under load, behind the balancer that ships: nobody notices."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from app.localhost.fleet import Served, get_status
from app.sandbox import webhooks as wa
from tests.support.balancer import balancer, needs_haproxy
from tests.support.patience import Within
from tests.support.world import World

REQUESTS_PER_SECOND = 200
MOST_AT_ONCE = 50
"""A machine that cannot keep up is asked less: what is tried is the restart, not how much it takes."""
MESSAGE_EVERY = 10
"""One request in ten is a customer's message and can be counted in the database; the others are statuses."""
READY_WITHIN_SECONDS = 0.1


@dataclass
class Load:
    """Signed webhooks at a steady rate, whatever becomes of them."""

    world: World
    url: str
    answers: Counter[Any] = field(default_factory=Counter)
    messages: set[str] = field(default_factory=set)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    late_seconds: float = 0.0

    async def run(self) -> None:
        start = time.monotonic()
        room = asyncio.Semaphore(MOST_AT_ONCE)
        async with httpx.AsyncClient(timeout=10) as http, asyncio.TaskGroup() as group:
            n = 0
            while not self.stopping.is_set():
                await room.acquire()
                group.create_task(self._one(http, n)).add_done_callback(lambda _: room.release())
                n += 1
                due = start + n / REQUESTS_PER_SECOND
                self.late_seconds = max(self.late_seconds, time.monotonic() - due)
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _one(self, http: httpx.AsyncClient, n: int) -> None:
        raw = wa.encode_like_meta(self._payload(n))
        try:
            answer = await http.post(
                self.url, content=raw, headers=wa.signed_headers(self.world.fleet.keys.app_secret, raw)
            )
            self.answers[answer.status_code] += 1
        except httpx.HTTPError as exc:
            self.answers[repr(exc)] += 1

    def _payload(self, n: int) -> dict[str, Any]:
        business = self.world.business
        if n % MESSAGE_EVERY:
            return wa.envelope(
                wa.statuses_change(business, [wa.status(f"wamid.roll-{n}", "read", recipient="33699000000")])
            )
        wamid = f"wamid.rolling-{n}"
        self.messages.add(wamid)
        person = wa.Person(f"33698{n % 50:06d}", "Amina")
        return wa.envelope(wa.messages_change(business, [wa.text(person, "Where?", id=wamid)], [person]))


@dataclass
class Farewell:
    """When a replica that was told to end said so, and when it stopped taking connections."""

    not_ready_seconds: float = -1.0
    refused_seconds: float = -1.0

    def watch(self, replica: Served) -> None:
        told = time.monotonic()
        replica.ask_to_stop()
        while self.refused_seconds < 0 and time.monotonic() - told < 30:
            if self.not_ready_seconds < 0 and get_status(replica.port, "/health/ready") == 503:
                self.not_ready_seconds = time.monotonic() - told
            try:
                socket.create_connection(("127.0.0.1", replica.port), timeout=1).close()
            except OSError:
                self.refused_seconds = time.monotonic() - told
            time.sleep(0.002)
        replica.wait(30)


@needs_haproxy
async def test_a_rolling_restart_under_load_fails_and_loses_nothing(
    world: World, tmp_path: Path, within: Within
) -> None:
    await world.api("PATCH", f"/accounts/{world.account['id']}", json={"bot_auto_on": False})
    farewells: list[Farewell] = []
    with balancer([replica.port for replica in world.fleet.replicas], tmp_path) as front:
        load = Load(world, f"{front.url}/webhook/whatsapp")
        running = asyncio.create_task(load.run())
        try:
            for replica in world.fleet.replicas:
                farewells.append(Farewell())
                await asyncio.to_thread(farewells[-1].watch, replica)
                assert replica.exit_code == 0, replica.log_tail()
                await asyncio.to_thread(replica.start)
                async with asyncio.timeout(10):
                    while set((await asyncio.to_thread(front.states)).values()) != {"UP"}:
                        await asyncio.sleep(0.02)
        finally:
            load.stopping.set()
            await running
    print(f"\nrolling restart: {dict(load.answers)}, latest send {load.late_seconds:.2f} s, {farewells}")
    assert set(load.answers) == {200}, load.answers
    for farewell in farewells:
        assert 0 <= farewell.not_ready_seconds < within(READY_WITHIN_SECONDS)
        assert farewell.refused_seconds > farewell.not_ready_seconds + 1
    await world.until_idle()
    stored = await world.rows("select wa_message_id from messages where wa_message_id like 'wamid.rolling-%'")
    assert {row["wa_message_id"] for row in stored} == load.messages


async def test_a_second_signal_ends_it_at_once(world: World, within: Within) -> None:
    replica = world.fleet.replicas[2]
    replica.ask_to_stop()
    async with asyncio.timeout(5):
        while get_status(replica.port, "/health/ready") != 503:
            await asyncio.sleep(0.005)
    assert replica.pid is not None
    told = time.monotonic()
    await asyncio.to_thread(_insist, replica)
    assert time.monotonic() - told < within(0.5)
    assert replica.exit_code == 128 + 15
    await asyncio.to_thread(replica.start)


def _insist(replica: Served) -> None:
    os.kill(replica.pid or 0, signal.SIGTERM)
    replica.wait(5)
