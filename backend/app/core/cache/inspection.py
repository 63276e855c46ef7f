"""What the shared tier holds, for operators. Reads, never writes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from app.core.cache.invalidation import group_of
from app.core.cache.shard import GENERATION, Stored
from app.core.cache.shared import SharedTier
from app.core.redis.script import Script

INSPECT = Script("cache_inspect")
CALL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Copy:
    """A value under one schema. `counts`: it is of its group's present generation, so it is an answer."""

    fingerprint: str
    json: bytes
    fresh_seconds: float
    kept_seconds: float
    counts: bool


@dataclass(frozen=True, slots=True)
class KeyView:
    """`held_by`: "a load", "n writers" or `None`, for `held_seconds` at most."""

    key: str
    held_by: str | None
    held_seconds: float
    copies: tuple[Copy, ...]


@dataclass(frozen=True, slots=True)
class TierView:
    """Values by group, and loads and writers under way, as of the time it took to count them."""

    values: dict[str, int]
    held: int


async def inspect_key(shared: SharedTier, key: str) -> KeyView:
    """Raises `Unavailable`."""
    shard = shared.of(key)
    now, record, held, held_ms, *rest = await shard.run(INSPECT, (key, group_of(key)), within_seconds=CALL_SECONDS)
    copies = []
    for fingerprint, raw, kept_ms in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        stored = Stored.parse(raw)
        fresh = (stored.fresh_until_us - int(now)) / 1e6
        counts = raw[GENERATION] == record[GENERATION]
        copies.append(Copy(fingerprint.decode(), stored.json, fresh, kept_ms / 1000, counts))
    holder = None
    if held:
        holder = "a load" if held[:1] == b"L" else f"{len(held) // 32} writers"
    return KeyView(key, holder, max(0, held_ms) / 1000, tuple(copies))


async def survey(shared: SharedTier) -> TierView:
    """Goes through all keys of the server: for people, not for a dashboard. Raises `Unavailable`."""
    values: Counter[str] = Counter()
    held = 0
    for shard in shared.shards:
        async for keys in shard.names("d", parts=2):
            values.update(group_of(key) for key in keys)
        async for keys in shard.names("l", parts=1):
            held += len(keys)
    return TierView(dict(values), held)
