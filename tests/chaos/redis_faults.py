"""Redis is there and not as it must be: its clock jumps, it is full, or it is another fleet's."""

from __future__ import annotations

import asyncio
import sys
import time

from app.adapters.migrations import apply_migrations
from app.localhost.processes import ProcessError, run

from .moved_clock import MovedValkey
from .scenarios import Broken, Stage
from .traffic import Message, Traffic, sender
from .world import ChaosWorld

HOUR = 3600
AHEAD_SECONDS = 3.0
"""Of a clock that is ahead: long enough for every kind of time to be written."""
AFTER_SECONDS = 10.0
"""For what was written meanwhile."""
SEEN_SECONDS = 5.0
BACK_SECONDS = 2.0
REFUSED_SECONDS = 20.0
USAGE = 2


async def clock_an_hour_ahead(world: ChaosWorld) -> None:
    """Redis' clock is an hour ahead for some seconds, under traffic: nothing waits for that hour."""
    valkey = world.servers.valkey
    assert isinstance(valkey, MovedValkey)
    stage = Stage(world)
    traffic = _traffic(world, [stage.conversation(3) for _ in range(40)], seconds=AHEAD_SECONDS + 3)
    before = (await world.sandbox.summary())["last_seq"]
    running = asyncio.create_task(traffic.run())
    await world.sandbox.wait(10, kind="send", after=before)
    await asyncio.to_thread(valkey.move, HOUR)
    try:
        await asyncio.sleep(AHEAD_SECONDS)
    finally:
        await asyncio.to_thread(valkey.move, 0)
    back = time.monotonic()
    await running
    stage.messages += traffic.messages
    written = max(0.0, time.monotonic() - back)
    try:
        await world.until_quiet(AFTER_SECONDS + written)
    except TimeoutError:
        waiting = await world.redis.get("chorus:{q0}:depth")
        raise Broken(f"{waiting} events wait {time.monotonic() - back:.0f} s after the clock was put back") from None
    await stage.ends_well()


async def full_redis(world: ChaosWorld) -> None:
    """Redis is full: webhooks are refused and /health says so; two seconds after there is room all is taken again."""
    stage = Stage(world)
    traffic = _traffic(world, [stage.conversation(2) for _ in range(20)], seconds=SEEN_SECONDS + 2)
    before = (await world.sandbox.summary())["last_seq"]
    running = asyncio.create_task(traffic.run())
    await world.sandbox.wait(5, kind="send", after=before)
    await world.redis.config_set("maxmemory", 1)
    try:
        await _health_says(world, "error", SEEN_SECONDS * world.patience)
    finally:
        await world.redis.config_set("maxmemory", 0)
    room = time.time()
    await _health_says(world, "ok", SEEN_SECONDS * world.patience)
    await running
    stage.messages += traffic.messages
    taken = [post.at for post in traffic.sender.posts if post.status == 200 and post.at >= room]
    if not taken or min(taken) - room > BACK_SECONDS * world.patience:
        raise Broken(
            f"the first webhook was taken {min(taken, default=float('inf')) - room:.1f} s after there was room"
        )
    await stage.ends_well()


async def another_database_on_the_namespace(world: ChaosWorld) -> None:
    """A replica of another database does not start on this Redis, and takes none of its messages."""
    stage = Stage(world)
    name = f"staging_{stage.run}"
    postgres = world.servers.postgres
    await asyncio.to_thread(postgres.execute, f"CREATE DATABASE {name}")
    await apply_migrations(postgres.url_of(name))
    env = (
        world.fleet.environment
        | world.fleet.settings_of_a_replica
        | {"DATABASE_URL": postgres.url_of(name), "PORT": "0"}
    )
    traffic = _traffic(world, [stage.conversation(2) for _ in range(20)], seconds=4)
    running = asyncio.create_task(traffic.run())
    command = [sys.executable, "-m", "app.cli", "serve"]
    try:
        done = await asyncio.to_thread(run, command, env=env, timeout_seconds=REFUSED_SECONDS)
    except ProcessError:
        raise Broken("a replica of another database started") from None
    finally:
        await running
        stage.messages += traffic.messages
        await asyncio.to_thread(postgres.execute, f"DROP DATABASE {name} WITH (FORCE)")
    if done.returncode != USAGE or "chorus queue rebind" not in done.stderr:
        raise Broken(f"exit code {done.returncode}: {done.stderr[-300:]}")
    await stage.ends_well()


def _traffic(world: ChaosWorld, conversations: list[list[Message]], *, seconds: float) -> Traffic:
    poster = sender(world.fleet.webhook_urls, app_secret=world.fleet.keys.app_secret, seed=1)
    return Traffic(poster, conversations, seed=1, seconds=seconds, lanes=8)


async def _health_says(world: ChaosWorld, status: str, seconds: float) -> None:
    url = f"{world.fleet.replicas[0].url}/health"
    deadline = time.monotonic() + seconds
    while (said := (await world.http.get(url)).json()["status"]) != status:
        if time.monotonic() > deadline:
            raise Broken(f"/health says {said} after {seconds:g} s, not {status}")
        await asyncio.sleep(0.05)
