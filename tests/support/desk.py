"""Queue, store and the services around them, without a worker: what happens to a message is in the test's hands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from types import MappingProxyType
from typing import Any

from app import wiring
from app.core.cache import invalidate_cache_pattern
from app.core.lifecycle import Supervisor
from app.core.queue import Event, Queue, QueuePolicy
from app.domain.models import Account, Conversation
from app.domain.ports import Store
from app.domain.webhook import OF_A_NUMBER, parse_webhook
from app.sandbox import webhooks as wa
from app.services.account_notices import AccountNotices
from app.services.conversation_service import ConversationService
from app.services.dead_letter_watch import DeadLetterWatch
from app.services.ingest_service import IngestService, decode, encode
from app.services.journal import Journal
from app.services.overflow import Overflow, OverflowDrain
from app.services.unanswered import UnansweredSearch
from tests.support.office import fit_replica
from tests.support.serving import settings_of

NOWHERE = "http://127.0.0.1:9"
"""Nothing is sent from a desk."""
_numbers = count(1)


@dataclass
class Desk:
    queue: Queue
    store: Store
    account: Account
    conversations: ConversationService
    ingest: IngestService
    journal: Journal | None
    overflow: Overflow
    drain: OverflowDrain
    watch: DeadLetterWatch
    search: UnansweredSearch

    @property
    def business(self) -> wa.Business:
        return wa.Business(self.account.phone_number_id)

    async def another_account(self) -> Account:
        return await new_account(self.store)

    def person(self) -> wa.Person:
        return wa.Person(f"3363{next(_numbers):07d}", "Amina")

    def events(self, person: wa.Person, *messages: dict[str, Any], business: wa.Business | None = None) -> list[Event]:
        change = wa.messages_change(business or self.business, messages, [person])
        return [encode(event) for event in parse_webhook(wa.envelope(change))]

    async def record(self, events: list[Event]) -> Conversation:
        """Stored, as a worker does first of all."""
        messages = [decode(event._replace(accepted_at=1.8e9)) for event in events]
        await self.conversations.record(messages)
        return await self.conversation_with(messages[0].body["wa_id"])

    async def conversation_with(self, wa_id: str) -> Conversation:
        page = await self.store.list_conversations(self.account.id, limit=100, cursor=None)
        return next(found for found in page.items if found.contact.wa_id == wa_id)

    async def texts(self, conversation: Conversation) -> list[str | None]:
        page = await self.store.list_messages(conversation.id, limit=100, cursor=None)
        return [message.text for message in reversed(page.items)]


async def new_account(store: Store) -> Account:
    """Its token is no cipher: nothing is sent."""
    return await store.create_account(
        name="Shop", slug=f"desk-{next(_numbers)}", phone_number_id=f"8100{next(_numbers):06d}",
        access_token="token", verify_token="verify-me",
    )  # fmt: skip


@asynccontextmanager
async def desk(
    valkey_url: str, store_url: str, *, changed: Mapping[str, Any] = MappingProxyType({}), **limits: Any
) -> AsyncIterator[Desk]:
    """`changed`: settings. `limits` of the queue."""
    async with AsyncExitStack() as stack:
        stack.push_async_callback(invalidate_cache_pattern, "*")
        settings = settings_of(NOWHERE, valkey_url, store_url, redis_namespace="test", **changed)
        outside = await wiring.open_outside(settings, stack)
        waiting = wiring.open_door(valkey_url, stack, name="chorus-wait")
        chosen: dict[str, Any] = {"debounce_seconds": 0, "max_pending": 1000, "one_share": OF_A_NUMBER} | limits
        queue = Queue(outside.redis, waiting, policy=QueuePolicy(**chosen), namespace="test")
        stack.push_async_callback(queue.aclose)
        outside = replace(outside, queue=queue)
        replica = await fit_replica(settings, outside, Supervisor())
        store, conversations = outside.store, replica.services.conversations
        journal = replica.inbox if isinstance(replica.inbox, Journal) else None
        yield Desk(
            queue, store, await new_account(store), conversations,
            ingest=replica.ingest, journal=journal,
            overflow=Overflow(queue, store, max_rows=100, max_bytes=10**8, put_timeout_seconds=5),
            drain=OverflowDrain(queue, store, conversations, AccountNotices(replica.services.accounts)),
            watch=DeadLetterWatch(queue, conversations, journal, events=outside.events),
            search=UnansweredSearch(queue, store, grace_seconds=0),
        )  # fmt: skip
