"""For operators: the fleet, breakers, cache, queue and dead letters."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from app.api.deps import Limit, Operator, Replica, operator
from app.core.cache import invalidate_cache_pattern, stats
from app.services.breaker_service import BreakerAction
from app.services.dead_letters import view

router = APIRouter(prefix="/admin", tags=["admin"], dependencies=[Depends(operator)])


class BreakerIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    action: BreakerAction
    why: Annotated[str, Field(max_length=200)] = "by hand"


class InvalidateIn(BaseModel):
    model_config = ConfigDict(extra="forbid")
    pattern: Annotated[str, Field(min_length=1, max_length=500)]


class DeadLetterIds(BaseModel):
    model_config = ConfigDict(extra="forbid")
    ids: Annotated[list[str], Field(min_length=1, max_length=1000)]


@router.get("/fleet")
async def fleet(replica: Replica) -> dict[str, Any]:
    replicas = await replica.registry.replicas()
    return {"replicas": [{"id": other.id, "silent_seconds": other.silent_seconds, **other.info} for other in replicas]}


@router.get("/breakers")
async def breakers(replica: Replica) -> dict[str, Any]:
    return await replica.breakers.overview()


@router.post("/breakers/{name}")
async def set_breaker(replica: Replica, user: Operator, name: str, body: BreakerIn) -> dict[str, Any]:
    return await replica.breakers.force(name, body.action, who=user.id, why=body.why)


@router.get("/cache")
async def cache() -> dict[str, Any]:
    """This replica's."""
    return asdict(stats())


@router.post("/cache/invalidate")
async def invalidate(body: InvalidateIn) -> dict[str, Any]:
    return {"invalidated": await invalidate_cache_pattern(body.pattern)}


@router.get("/queue")
async def queue(replica: Replica) -> dict[str, Any]:
    return asdict(await replica.queue.stats())


@router.get("/silent-numbers")
async def silent_numbers(replica: Replica) -> dict[str, Any]:
    """Numbers whose customers usually write and have been quiet for too long, as of the last minute."""
    return {"items": replica.silence.silent}


@router.get("/dead-letters")
async def dead_letters(replica: Replica, limit: Limit = 50, cursor: str | None = None) -> dict[str, Any]:
    letters, next_cursor = await replica.queue.dead(limit=limit, cursor=cursor)
    return {"items": [view(letter) for letter in letters], "next_cursor": next_cursor}


@router.post("/dead-letters/replay")
async def replay(replica: Replica, body: DeadLetterIds) -> dict[str, int]:
    return {"replayed": await replica.queue.replay(body.ids)}


@router.post("/dead-letters/drop")
async def drop(replica: Replica, body: DeadLetterIds) -> dict[str, int]:
    return {"dropped": await replica.queue.drop(body.ids)}
