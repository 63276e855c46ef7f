"""For operators: the fleet, breakers, cache, queue and dead letters."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Path, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api.deps import LetterCursor, Limit, Operator, Replica, SequenceCursor, operator
from app.api.json_route import json_router
from app.api.openapi import problems
from app.api.schemas import NO_NUL, AuditPage
from app.core.cache import CacheStats, invalidate_cache_pattern, stats
from app.core.circuit_breaker import State
from app.core.queue import QueueStats
from app.domain.errors import InvalidInput, NotFound
from app.services.breaker_service import BreakerAction
from app.services.dead_letters import view
from app.services.rehearsal import Fault

router = json_router("/admin", "admin", operator)


BreakerName = Annotated[
    str,
    Path(
        max_length=200,
        description="`gemini`, `whatsapp`, `supabase`, or `whatsapp_api:<phone_number_id>` for one account.",
        examples=["gemini"],
    ),
]


class BreakerIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"action": "auto", "why": "it is back"}]})
    action: BreakerAction
    why: Annotated[str, Field(max_length=200, pattern=NO_NUL)] = "by hand"


class BreakerOut(BaseModel):
    """A circuit; more fields say who forced it, why, and since when."""

    model_config = ConfigDict(extra="allow")
    name: str
    state: State
    failure_count: int
    scope: Literal["fleet", "replica"]
    """`replica`: as this replica sees it, because Redis is away."""


class ReplicaOut(BaseModel):
    """A replica as it described itself in its last heartbeat."""

    model_config = ConfigDict(extra="allow")
    id: str
    silent_seconds: float


class FleetOut(BaseModel):
    replicas: list[ReplicaOut]


class MinuteOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    at: datetime
    answers: int
    p95_seconds: float | None
    """From the webhook's 200 to the accepted send; null without an answer."""
    http_5xx: int
    refused: int
    """Deliveries that were not taken."""


class LastHourOut(BaseModel):
    minutes: list[MinuteOut]


class InvalidateIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"pattern": "bot_profile:*"}]})
    pattern: Annotated[str, Field(min_length=1, max_length=500)]


class InvalidatedOut(BaseModel):
    invalidated: int


class DeadLetterIds(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"ids": ["0-1764212345678-0"]}]})
    ids: Annotated[list[str], Field(min_length=1, max_length=1000)]


class DeadLetterOut(BaseModel):
    """What was given up on, without its content, which is a customer's words. An event for another system also has
    `webhook_id` and `event_id`."""

    model_config = ConfigDict(extra="allow")
    id: str
    event: str
    """Kind, number and digest."""
    kind: str
    """`event`: for another system; its id begins with `e`."""
    reason: str
    attempts: int
    parked_at: float
    """Seconds since 1970."""
    bytes: int


class AccountQueueOut(BaseModel):
    """What waits, or is being worked on, for one account. `oldest_seconds` is null where it is not among the oldest of
    the whole queue."""

    model_config = ConfigDict(from_attributes=True)
    account_id: str
    phone_number_id: str
    name: str
    pending: int
    messages: int
    statuses: int
    replies: int
    """Of people."""
    oldest_seconds: float | None
    answers_today: int


class AccountQueuesOut(BaseModel):
    items: list[AccountQueueOut]


class RunningFaultOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    fault: Fault
    fired: int
    """How many calls it has hit."""


class RehearsalOut(BaseModel):
    attached: bool
    """Does a sandbox stand in for WhatsApp and Gemini? Never in production."""
    faults: list[Fault]
    running: list[RunningFaultOut]


class RehearsalIn(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"fault": "gemini_down", "seconds": 30}]})
    fault: Fault
    seconds: Annotated[int, Field(ge=1, le=600, strict=True)] = 30


class SilentNumberOut(BaseModel):
    phone_number_id: str
    silent_seconds: float
    usual_messages: float
    """How many would usually have come in that time."""


class SilentNumbersOut(BaseModel):
    items: list[SilentNumberOut]


class DeadLetterPage(BaseModel):
    items: list[DeadLetterOut]
    next_cursor: str | None


class ReplayedOut(BaseModel):
    replayed: int


class DroppedOut(BaseModel):
    dropped: int


@router.get("/fleet", response_model=FleetOut, responses=problems(401, 403, 422, 503))
async def get_fleet(replica: Replica) -> dict[str, object]:
    """Every replica that is alive."""
    replicas = await replica.registry.replicas()
    return {"replicas": [{"id": other.id, "silent_seconds": other.silent_seconds, **other.info} for other in replicas]}


@router.get("/audit", responses=problems(401, 403, 422, 503))
async def list_every_audit(replica: Replica, limit: Limit = 50, cursor: SequenceCursor = None) -> AuditPage:
    """The audit trails of all accounts, and circuits of the whole installation that were forced; the newest first."""
    return AuditPage.model_validate(await replica.audit.list_all(limit=limit, cursor=cursor))


@router.get("/breakers", response_model=dict[str, BreakerOut], responses=problems(401, 403, 422, 503))
async def list_breakers(replica: Replica) -> dict[str, Any]:
    """The circuits by name: the services', and those of accounts in trouble."""
    return await replica.breakers.overview()


@router.post("/breakers/{name}", response_model=BreakerOut, responses=problems(400, 401, 403, 404, 413, 422, 503))
async def set_breaker(replica: Replica, user: Operator, name: BreakerName, body: BreakerIn) -> dict[str, object]:
    """Force a circuit open or closed for every replica, or let it decide by itself again. The circuit of one account or
    model may always be opened; `close` and `auto` need one that is known (404 `breaker_not_found`)."""
    return await replica.breakers.force(name, body.action, who=user.id, why=body.why)


@router.get("/last-hour", responses=problems(401, 403, 422, 503))
async def get_last_hour(replica: Replica) -> LastHourOut:
    """The last 60 minutes of the whole fleet, the oldest first; the last one is not over. Without Prometheus."""
    return LastHourOut(minutes=[MinuteOut.model_validate(minute) for minute in await replica.last_hour.read()])


@router.get("/cache", response_model=CacheStats, responses=problems(401, 403, 422, 503))
async def get_cache() -> dict[str, object]:
    """This replica's."""
    return asdict(stats())


@router.post("/cache/invalidate", response_model=InvalidatedOut, responses=problems(400, 401, 403, 413, 422, 503))
async def invalidate_cache(body: InvalidateIn) -> dict[str, object]:
    """A key, or a pattern that ends in `*`; on every replica."""
    return {"invalidated": await invalidate_cache_pattern(body.pattern)}


@router.get("/queue", response_model=QueueStats, responses=problems(401, 403, 422, 503))
async def get_queue(replica: Replica) -> dict[str, object]:
    """Figures of the whole queue."""
    return asdict(await replica.queue.stats())


@router.get("/queue/accounts", response_model=AccountQueuesOut, responses=problems(401, 403, 422, 503))
async def list_account_queues(replica: Replica, user: Operator) -> dict[str, object]:
    """The accounts with something waiting, the most first; 100 at most."""
    return {"items": await replica.queue_view.by_account(user)}


@router.get("/rehearsal", response_model=RehearsalOut, responses=problems(401, 403, 422, 503))
async def get_rehearsal(replica: Replica) -> dict[str, object]:
    """The faults that can be rehearsed, and those that run."""
    attached = await replica.rehearsal.is_attached()
    running = await replica.rehearsal.running() if attached else ()
    return {"attached": attached, "faults": list(Fault), "running": running}


@router.post("/rehearsal", response_model=RehearsalOut, responses=problems(400, 401, 403, 404, 413, 422, 503))
async def begin_rehearsal(replica: Replica, body: RehearsalIn) -> dict[str, object]:
    """Begin a fault, in the place of what runs; it ends by itself. 404 `sandbox_not_found` without a sandbox."""
    if not await replica.rehearsal.is_attached():
        raise NotFound("sandbox")
    await replica.rehearsal.begin(body.fault, seconds=body.seconds)
    return await get_rehearsal(replica)


@router.delete("/rehearsal", status_code=204, responses=problems(401, 403, 422, 503))
async def end_rehearsal(replica: Replica) -> Response:
    """End every fault of the sandbox."""
    await replica.rehearsal.end()
    return Response(status_code=204)


@router.get("/silent-numbers", response_model=SilentNumbersOut, responses=problems(401, 403, 422, 503))
async def list_silent_numbers(replica: Replica) -> dict[str, object]:
    """Numbers whose customers usually write and have been quiet for too long, as of the last minute."""
    return {"items": replica.silence.silent}


@router.get("/dead-letters", response_model=DeadLetterPage, responses=problems(401, 403, 422, 503))
async def list_dead_letters(replica: Replica, limit: Limit = 50, cursor: LetterCursor = None) -> dict[str, object]:
    """What was given up on: messages, the oldest first, then events for other systems (`kind` is `event`)."""
    try:
        letters, next_cursor = await replica.dead_letters.page(limit=limit, cursor=cursor)
    except ValueError as exc:
        what = "this is not a cursor of this list; take next_cursor of the page before"
        raise InvalidInput(what, field="cursor") from exc
    return {"items": [view(letter) for letter in letters], "next_cursor": next_cursor}


@router.post("/dead-letters/replay", response_model=ReplayedOut, responses=problems(400, 401, 403, 413, 422, 503))
async def replay_dead_letters(replica: Replica, body: DeadLetterIds) -> dict[str, int]:
    """Put them back at the end of their mailboxes; ids that do not exist are skipped."""
    return {"replayed": await replica.dead_letters.replay(body.ids)}


@router.post("/dead-letters/drop", response_model=DroppedOut, responses=problems(400, 401, 403, 413, 422, 503))
async def drop_dead_letters(replica: Replica, body: DeadLetterIds) -> dict[str, int]:
    """Forget them for good; ids that do not exist are skipped."""
    return {"dropped": await replica.dead_letters.drop(body.ids)}
