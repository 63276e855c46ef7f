"""A name server that hangs for some names, while Redis' connections have to be opened anew."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from app.localhost.fleet import Served
from app.localhost.processes import ChildProcess, free_port
from app.sandbox.webhooks import encode_like_meta

from .name_server import IN_OWN_NAMESPACE, NameServer, running_name_server
from .scenarios import Broken, Stage
from .traffic import payload, sender
from .world import ChaosWorld

UPSTREAMS = {"WHATSAPP_BASE_URL": "whatsapp.test", "GEMINI_BASE_URL": "gemini.test"}
NAMES = UPSTREAMS | {"REDIS_URL": "redis.test", "DATABASE_URL": "postgres.test"}
HANG_SECONDS = 6.0
"""Of webhooks while the names hang. A look-up of theirs takes 10 s."""
KEPT_ALIVE_SECONDS = 4.5
"""After so long the replica has no connection to an upstream left."""


class Named(Served):
    """A replica that knows everything outside by name, and a name server of its own."""

    resolv_conf: Path

    def start(self) -> None:
        self.port = free_port(self.port or None)
        program = [sys.executable, "-m", "app.cli", "serve", "--port", str(self.port)]
        self._argv = [*IN_OWN_NAMESPACE, str(self.resolv_conf), *program]
        ChildProcess.start(self)
        self.wait_ready()


async def names_that_hang(world: ChaosWorld) -> None:
    """The look-ups of Gemini and WhatsApp hang, and Redis' connections drop once: no webhook is refused."""
    with running_name_server() as names:
        async with _named_replica(world, names) as number:
            stage = Stage(world)
            with stage.only(number):
                (first,) = stage.conversation(1)
                await stage.post(first, replica=number)
                await stage.sends(1, first)
                await asyncio.sleep(KEPT_ALIVE_SECONDS)
                names.hang(*UPSTREAMS.values())
                await stage.post(*(stage.conversation(1)[0] for _ in range(12)), replica=number)
                await _until_asked(names)
                await world.redis.client_kill_filter(skipme=True, _type="normal")
                refused = await _webhooks(world, stage, number)
                names.hang()
            await stage.ends_well()
    if refused:
        raise Broken(f"{refused} webhooks were refused, or not answered within a second")


async def _webhooks(world: ChaosWorld, stage: Stage, number: int) -> int:
    """For a while; how many got anything but a 200 within a second."""
    poster = sender([world.fleet.webhook_urls[number]], app_secret=world.fleet.keys.app_secret)
    poster.timeout_seconds = 5
    end = time.monotonic() + HANG_SECONDS
    while time.monotonic() < end:
        (message,) = stage.conversation(1)
        if (await poster.post(encode_like_meta(payload([message])))).succeeded:
            stage.messages.append(message)
        await asyncio.sleep(0.05)
    return sum(post.status != 200 or post.seconds > world.patience for post in poster.posts)


async def _until_asked(names: NameServer) -> None:
    """Somebody waits for a name that hangs."""
    async with asyncio.timeout(20):
        while not names.left_alone:
            await asyncio.sleep(0.05)


@asynccontextmanager
async def _named_replica(world: ChaosWorld, names: NameServer) -> AsyncIterator[int]:
    """Its number in the fleet."""
    with tempfile.TemporaryDirectory(prefix="chorus-names-") as folder:
        env = world.fleet._env | _by_name(world.fleet.settings_of_a_replica)
        replica = Named("named", [], folder=Path(folder), env=env, ready="/health/ready", port=None)
        replica.resolv_conf = names.resolv_conf(Path(folder))
        await asyncio.to_thread(replica.start)
        world.fleet.replicas.append(replica)
        try:
            yield len(world.fleet.replicas) - 1
        finally:
            world.fleet.replicas.remove(replica)
            world.logs.look(replica.log_file)
            await asyncio.to_thread(replica.stop)


def _by_name(settings: Mapping[str, str]) -> dict[str, str]:
    named = dict(settings)
    for setting, name in NAMES.items():
        parts = urlsplit(settings[setting])
        user, at, _ = parts.netloc.rpartition("@")
        named[setting] = urlunsplit(parts._replace(netloc=f"{user}{at}{name}:{parts.port}"))
    return named
