"""What a Redis server says of itself, in the few words that /health, `chorus doctor` and the alerts need."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import Gauge

from app.core.redis.door import Door

MEMORY_USED = Gauge("chorus_redis_memory_used_bytes", "Redis' used_memory; of a cluster the fullest primary's")
MEMORY_MAX = Gauge("chorus_redis_memory_max_bytes", "Redis' maxmemory; 0: no limit")
REPLICAS = Gauge("chorus_redis_replicas", "Replicas of the primary; of a cluster the fewest of any primary")
DURABLE = Gauge(
    "chorus_redis_durable",
    "1: nothing is evicted, and the append-only file is on and its last write went well, or durability does not rest on"
    " it (REDIS_DURABILITY)",
)
NEARLY_FULL = 0.9


async def describe(door: Door, *, needs_aof: bool = True) -> dict[str, Any]:
    """See `about_redis`. Asks also while Redis is known to be away. Raises `Unavailable`."""
    return about_redis(await door.info(), is_cluster=door.is_cluster, needs_aof=needs_aof)


def about_redis(infos: Sequence[Mapping[str, Any]], *, is_cluster: bool, needs_aof: bool = True) -> dict[str, Any]:
    """Role, persistence, eviction, memory and replication of the server, or the worst of each of a Cluster's primaries,
    at least one. Sets the gauges; `needs_aof=False`: a server without an append-only file counts as durable."""
    nodes = [_about(info) for info in infos]
    about = _worst(nodes) if is_cluster else nodes[0]
    MEMORY_USED.set(about["memory"]["used_bytes"])
    MEMORY_MAX.set(about["memory"]["max_bytes"])
    REPLICAS.set(about["replication"].get("replicas", 0))
    DURABLE.set(not any(_losses(about, needs_aof=needs_aof)))
    return about


def trouble(about: Mapping[str, Any], *, needs_aof: bool = True) -> str | None:
    """What is wrong with a server that answers, in words."""
    found = [*_losses(about, needs_aof=needs_aof)]
    ratio = about["memory"]["used_ratio"]
    if ratio is not None and ratio >= NEARLY_FULL:
        found.append(f"its memory is {ratio:.0%} full; full, it refuses what is to be stored")
    return "; ".join(found) or None


def _losses(about: Mapping[str, Any], *, needs_aof: bool) -> Iterator[str]:
    """Of accepted messages."""
    if about["eviction"] not in {"noeviction", None} and (needs_aof or not about["eviction"].startswith("volatile")):
        yield f"maxmemory-policy is {about['eviction']}: full, it drops messages; set noeviction"
    if needs_aof and about["persistence"] != "aof":
        yield "appendonly is off: a restart loses accepted messages"
    elif needs_aof and about["aof_last_write"] != "ok":
        yield "the last write of the append-only file failed: a restart loses accepted messages"


def _about(info: Mapping[str, Any]) -> dict[str, Any]:
    """One server's INFO."""
    used, limit = info.get("used_memory", 0), info.get("maxmemory", 0)
    return {
        "version": info.get("valkey_version") or info.get("redis_version"),
        "role": info.get("role"),
        "persistence": "aof" if info.get("aof_enabled") else "rdb or none",
        "aof_last_write": info.get("aof_last_write_status"),
        "eviction": info.get("maxmemory_policy"),
        "memory": {"used_bytes": used, "max_bytes": limit, "used_ratio": round(used / limit, 3) if limit else None},
        "replication": _replication(info),
        "loading": bool(info.get("loading")),
        "clients": info.get("connected_clients"),
        "max_clients": info.get("maxclients"),
    }


def _worst(nodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def worst(name: str, good: str) -> Any:
        return next((node[name] for node in nodes if node[name] != good), good)

    fullest = max(nodes, key=lambda node: (node["memory"]["used_ratio"] or 0, node["memory"]["used_bytes"]))
    behind = [node["replication"].get("behind_bytes") for node in nodes]
    return fullest | {
        "role": "cluster",
        "primaries": len(nodes),
        "persistence": worst("persistence", "aof"),
        "aof_last_write": worst("aof_last_write", "ok"),
        "eviction": worst("eviction", "noeviction"),
        "replication": {
            "replicas": min(node["replication"].get("replicas", 0) for node in nodes),
            "behind_bytes": max((value for value in behind if value is not None), default=None),
        },
        "loading": any(node["loading"] for node in nodes),
        "max_clients": min((node["max_clients"] for node in nodes if node["max_clients"] is not None), default=None),
    }


def _replication(info: Mapping[str, Any]) -> dict[str, Any]:
    """A primary tells its replicas and how far the slowest one is behind; a replica tells its link to the primary."""
    if info.get("role") == "slave":
        return {"link": info.get("master_link_status"), "silent_seconds": info.get("master_last_io_seconds_ago")}
    offset = info.get("master_repl_offset", 0)
    # redis-py parses a line "ip=…,offset=…" into a mapping.
    replicas = [value for name, value in info.items() if re.fullmatch(r"slave\d+", name) and isinstance(value, Mapping)]
    behind = max((offset - replica.get("offset", 0) for replica in replicas), default=None)
    return {"replicas": info.get("connected_slaves", 0), "behind_bytes": behind}
