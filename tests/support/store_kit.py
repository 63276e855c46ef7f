"""What the store's conformance suites share: policies without waits, messages, and a scene to play in."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg

from app.adapters.database_trouble import database_policy
from app.adapters.sql_store import SqlStore
from app.core.circuit_breaker import BreakerPolicy, CircuitBreaker
from app.core.resilience import ResiliencePolicy
from app.domain.models import Account, Author, Conversation, InboundMessage, Message, Reply
from app.domain.ports import SendDecision

NewAccount = Callable[..., Awaitable[Account]]

_serial = itertools.count(1)


def quick_policy(*, attempt_timeout_seconds: float = 5.0, failure_threshold: int = 1000) -> ResiliencePolicy:
    """The stores' own, without the waits between attempts and with a breaker of the test's own."""
    return database_policy(
        max_concurrent=10,
        breaker=CircuitBreaker(f"test_{next(_serial)}", BreakerPolicy(failure_threshold, 30.0)),
        attempt_timeout_seconds=attempt_timeout_seconds,
        uniform=lambda: 0.0,
    )


NOW = datetime.now(UTC).replace(microsecond=0)


def unique(prefix: str = "x") -> str:
    return f"{prefix}-{time.time_ns()}-{next(_serial)}"


def message(
    text: str | None = "hello", *, at: datetime | None = None, kind: str = "text", wamid: str = ""
) -> InboundMessage:
    wamid = wamid or unique("wamid")
    return InboundMessage(wamid, kind, text, at or datetime.now(UTC), {"id": wamid, "type": kind})


@dataclass
class Scene:
    """An account with one customer, and shorthands for what tests do all the time."""

    store: SqlStore
    account: Account
    wa_id: str = "33600000001"

    async def receive(self, *messages: InboundMessage, wa_id: str | None = None) -> Conversation:
        inbound = await self.store.record_inbound(
            self.account.id, wa_id=wa_id or self.wa_id, user_id=None, name="Ada", messages=messages or (message(),)
        )
        return inbound.conversation

    async def reply(self, *, body: str = "hi", fence: int = 1, author: Author = Author.BOT) -> Reply:
        """A stored reply, ready to be sent, to a message that has just come in."""
        asked = message()
        conversation = await self.receive(asked)
        key = asked.wa_message_id if author is Author.BOT else unique("human")
        return await self.store.open_reply(
            conversation.id, key=key, author=author, covers=[asked.wa_message_id], fence=fence, body=body
        )

    async def status(self, name: Any, *, wamid: str, key: str | None = None, error: Any = None) -> bool:
        return await self.store.apply_status(
            self.account.id, wa_message_id=wamid, outbound_key=key, status=name, timestamp=NOW, error=error
        )


async def begin(
    store: SqlStore, reply: Reply, *, part: int = 0, parts: int = 1, fence: int = 1, resend: bool = False
) -> SendDecision:
    text = f"part {part}"
    return await store.begin_part(reply.key, fence=fence, part=part, parts=parts, text=text, resend=resend)


async def look(store: SqlStore, reply: Reply) -> Reply:
    """The reply as it is: fence 0 finds without taking it over."""
    return await store.open_reply(reply.conversation_id, key=reply.key, author=reply.author, covers=(), fence=0)


async def outbound(store: SqlStore, reply: Reply, part: int = 0) -> Message:
    page = await store.list_messages(reply.conversation_id, limit=50, cursor=None)
    (found,) = [item for item in page.items if item.outbound_key == f"{reply.key}#{part}"]
    return found


@asynccontextmanager
async def uncommitted(sql: asyncpg.Connection, statement: str, *args: object) -> AsyncIterator[None]:
    """Another session's work, done but not committed until the block ends."""
    async with sql.transaction():
        await sql.execute(statement, *args)
        yield


async def until_all_wait(sql: asyncpg.Connection, *tasks: asyncio.Task[Any]) -> None:
    """Returns when each of the calls waits for a lock in the database."""
    query = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    async with asyncio.timeout(10):
        while await sql.fetchval(query) < len(tasks):
            assert not any(task.done() for task in tasks), "one of the calls did not wait"
            await sql.execute("select pg_stat_clear_snapshot()")  # a transaction looks only once
