"""One shard of the shared tier: its keys, its scripts, and what their answers mean. The protocol is in
`core/lua/cache_*.lua`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

from app.core.cache.channel import Channel
from app.core.cache.patterns import Kind, Target, group_of
from app.core.redis.script import Script

LEASE, FILL, RENEW, INVALIDATE, BUMP, BEAT = (
    Script(f"cache_{name}") for name in ("lease", "fill", "renew", "invalidate", "bump", "beat")
)

GENERATION = slice(0, 16)
FRESH_UNTIL = slice(16, 32)
JSON = slice(32, None)

FENCE_SECONDS = 15.0
"""Longer than a commit may take. A writer that died leaves its keys uncached for this long."""
SLACK_SECONDS = 1.0
"""Between the server's clock and what we take it for."""
MAX_KEPT_SECONDS = 7 * 86400
"""Below the life of a group's record (cache_lease.lua), without which a value counts for nothing."""


class Link(Protocol):
    """The way to the server. Every call is bounded and raises `Unavailable`; `spend` limits what it may take."""

    def mget(self, keys: Sequence[str], spend: Spend) -> Awaitable[list[bytes | None]]: ...

    def run(self, script: Script, keys: Sequence[str], args: Sequence[Any], spend: Spend) -> Awaitable[Any]: ...

    def scan(self, match: str) -> AsyncIterator[list[str]]:
        """Pages of the keys that match, each once or more."""
        ...


@dataclass(slots=True)
class Spend:
    """Seconds one read may still wait for the server, in all its calls together."""

    seconds: float
    urgent: bool = False
    """Neither queues behind other calls of this process, nor is given up because one of them was not answered."""


class Answer(IntEnum):
    VALUE = 1
    LOAD = 2
    WAIT = 3
    FENCED = 4


class Stored(NamedTuple):
    """A value in the shared tier; `fresh_until_us` is server time."""

    json: bytes
    fresh_until_us: int

    @classmethod
    def parse(cls, raw: bytes) -> Stored:
        return cls(raw[JSON], int(raw[FRESH_UNTIL]))


class Shard:
    """`prefix` carries the hash tag; `origin` is this process."""

    def __init__(self, link: Link, *, prefix: str, origin: str) -> None:
        self._link = link
        self._prefix = prefix
        self._keys = (prefix,)
        self._origin = origin
        self.channel = Channel(origin)

    @property
    def topic(self) -> str:
        return f"{self._prefix}inv"

    async def read(self, key: str, fingerprint: str, spend: Spend) -> Stored | None:
        """What is stored under the present generation of its group, fresh or not."""
        raw, record = await self._link.mget(
            (f"{self._prefix}d:{fingerprint}:{key}", f"{self._prefix}g:{group_of(key)}"), spend
        )
        if raw is None or record is None or raw[GENERATION] != record[GENERATION]:
            return None
        return Stored.parse(raw)

    async def lease(
        self,
        key: str,
        fingerprint: str,
        load_id: str,
        lease_ms: int,
        spend: Spend,
        *,
        ttl_seconds: float = MAX_KEPT_SECONDS,
        seen: int | None = None,
    ) -> tuple[Answer, Stored | None]:
        """`ttl_seconds`: what claims to be fresh for longer was stored while the server's clock was ahead, and is no
        answer. `seen`: a copy fresh until then is in hand, and only a fresher one will do."""
        known = "" if seen is None else f"{seen:016d}"
        args = (
            key,
            fingerprint,
            group_of(key),
            load_id,
            lease_ms,
            known,
            _longest_ms(ttl_seconds),
            _longest_ms(FENCE_SECONDS),
        )
        reply = await self._link.run(LEASE, self._keys, args, spend)
        answer = Answer(reply[0])
        return answer, Stored.parse(reply[1]) if answer is Answer.VALUE else None

    async def fill(
        self, key: str, fingerprint: str, load_id: str, json: bytes, fresh_seconds: float, stale_seconds: float,
        spend: Spend,
    ) -> int | None:  # fmt: skip
        """Store it; until when it is fresh. `None`: refused, the lease was no longer ours."""
        fresh_ms = max(1, round(fresh_seconds * 1000))
        kept_ms = min(fresh_ms + round(stale_seconds * 1000), MAX_KEPT_SECONDS * 1000)
        args = (key, fingerprint, group_of(key), load_id, fresh_ms, kept_ms, json)
        fresh_until = await self._link.run(FILL, self._keys, args, spend)
        return None if fresh_until is None else int(fresh_until)

    async def renew(self, key: str, load_id: str, lease_ms: int, spend: Spend) -> bool:
        """`lease_ms=0` gives it back."""
        return bool(await self._link.run(RENEW, self._keys, (key, load_id, lease_ms), spend))

    async def invalidate(self, keys: Sequence[str], spend: Spend, *, writer: str = "", fence_ms: int = 0) -> int:
        """Forget keys, all of this shard; how many values there were. Raise (`fence_ms` > 0) or lower `writer`'s
        fence in the same step."""
        pairs = [part for key in keys for part in (key, group_of(key))]
        args = (self._origin, writer, fence_ms, *pairs)
        deleted, sequence = await self._link.run(INVALIDATE, self._keys, args, spend)
        self.channel.acknowledged = max(self.channel.acknowledged, int(sequence))
        return int(deleted)

    async def bump(self, target: Target, spend: Spend) -> None:
        """Forget a group; or announce that a pattern's keys are gone."""
        args = (self._origin, target.kind.value, target.text)
        sequence = await self._link.run(BUMP, self._keys, args, spend)
        self.channel.acknowledged = max(self.channel.acknowledged, int(sequence))

    async def sweep(self, target: Target, call_seconds: float) -> int:
        """Forget every key that matches a pattern. Leases go first: what a load stores after the first pass was leased
        during it, and what it stored before is found by the second. The announcement comes last, when nobody can read
        an old value into memory any more."""
        assert target.kind is Kind.PATTERN  # noqa: S101
        deleted = 0
        for family, parts in (("l", 1), ("d", 2)):
            async for keys in self.names(family, parts=parts):
                doomed = [key for key in keys if target.matches(key)]
                if doomed:
                    deleted += await self.invalidate(doomed, Spend(call_seconds))
        await self.bump(target, Spend(call_seconds))
        return deleted

    async def names(self, family: str, *, parts: int) -> AsyncIterator[set[str]]:
        """Pages of the keys that have a value (`d`, two parts before the key) or a lease (`l`, one)."""
        async for page in self._link.scan(f"{_escape(self._prefix)}{family}:*"):
            yield {name.removeprefix(self._prefix).split(":", parts)[parts] for name in page}

    async def run(self, script: Script, args: Sequence[Any], spend: Spend) -> Any:
        """Another script on this shard's keys."""
        return await self._link.run(script, self._keys, args, spend)

    async def beat(self, spend: Spend) -> tuple[int, int]:
        """The sequence, and the server's time in µs."""
        sequence, now = await self._link.run(BEAT, self._keys, (), spend)
        return int(sequence), int(now)


def _escape(text: str) -> str:
    return "".join(f"\\{sign}" if sign in "*?[]\\" else sign for sign in text)


def _longest_ms(seconds: float) -> int:
    return round((seconds + SLACK_SECONDS) * 1000)
