"""Which replicas are alive: one sorted set of heartbeats and one hash of descriptions, on the server's clock."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from app.core.errors import Unavailable
from app.core.redis.door import Door
from app.core.redis.script import Script

HEARTBEAT_SECONDS = 2.0
BEAT = Script("fleet_beat")
STALE_AFTER_SECONDS = 3 * HEARTBEAT_SECONDS
"""Two missed beats are bad luck, three are a dead replica."""


def new_replica_id() -> str:
    """Tells people where to look, and one start from the next."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


@dataclass(frozen=True, slots=True)
class Replica:
    """One living replica: `info` is what it said of itself, `silent_seconds` the age of its last heartbeat."""

    id: str
    silent_seconds: float
    info: Mapping[str, Any]


class Registry:
    """Registers this replica and lists all. Does not elect a leader."""

    def __init__(
        self, door: Door, *, namespace: str, replica_id: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._door = door
        self._clock = clock
        self._known_at = 0.0
        self._keys = [f"{namespace}:{{fleet}}:beats", f"{namespace}:{{fleet}}:info"]
        self.replica_id = replica_id
        self.living: tuple[Replica, ...] = ()
        """Replicas alive at the last heartbeat that was answered, by id; none once that is `STALE_AFTER_SECONDS` ago.
        One lost heartbeat must not make this replica the only one: it would be a quorum by itself."""
        self.count = 1
        """How many they were, this one included; while Redis is away what it was before."""

    @property
    def others(self) -> tuple[Replica, ...]:
        """The living without this one."""
        return tuple(replica for replica in self.living if replica.id != self.replica_id)

    async def beat(self, info: Mapping[str, Any]) -> None:
        """Say that this replica lives, and learn who else does. Raises `Unavailable`."""
        await self._ask("beat", self.replica_id, orjson.dumps(info))
        self.count = max(1, len(self.living))

    async def leave(self) -> None:
        """Take this replica off the list; one that was killed leaves by silence. Raises `Unavailable`."""
        await self._door.run(BEAT, self._keys, ["leave", self.replica_id, b"", 0], urgent=True)

    async def replicas(self) -> list[Replica]:
        """Every living replica, by id. Raises `Unavailable`."""
        await self._ask("list", "", b"")
        return list(self.living)

    async def _ask(self, op: str, replica_id: str, info: bytes) -> None:
        silence_ms = int(STALE_AFTER_SECONDS * 1000)
        try:
            rows = await self._door.run(BEAT, self._keys, [op, replica_id, info, silence_ms], urgent=True)
        except Unavailable:
            if self._clock() - self._known_at > STALE_AFTER_SECONDS:
                self.living = ()
            raise
        triples = zip(rows[::3], rows[1::3], rows[2::3], strict=True)
        found = (Replica(name.decode(), int(age_ms) / 1000, orjson.loads(info)) for name, age_ms, info in triples)
        self.living, self._known_at = tuple(sorted(found, key=lambda replica: replica.id)), self._clock()
