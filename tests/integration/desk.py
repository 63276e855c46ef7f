"""Queue, store and the services around them, without a worker: what happens to a message is in the test's hands."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from app.adapters.postgres_store import PostgresStore
from app.core.cache import invalidate_cache_pattern
from app.core.queue import Event, Queue
from app.core.redis.client import Redis, connect
from app.core.redis.door import Door
from app.core.secrets import TokenCipher
from app.domain.models import Account, Conversation
from app.domain.webhook import parse_webhook
from app.sandbox import webhooks as wa
from app.services.account_notices import AccountNotices
from app.services.account_service import AccountService
from app.services.conversation_service import ConversationService
from app.services.dead_letter_watch import DeadLetterWatch
from app.services.ingest_service import decode, encode
from app.services.overflow import Overflow, OverflowDrain
from app.services.unanswered import UnansweredSearch

_numbers = count(1)


class NoDelivery:
    """Nothing is sent from a desk."""


@dataclass
class Desk:
    redis: Redis
    queue: Queue
    store: PostgresStore
    account: Account
    conversations: ConversationService
    overflow: Overflow
    drain: OverflowDrain
    watch: DeadLetterWatch
    search: UnansweredSearch

    @property
    def business(self) -> wa.Business:
        return wa.Business(self.account.phone_number_id)

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


@asynccontextmanager
async def desk(valkey_url: str, store_url: str, **limits: Any) -> AsyncIterator[Desk]:
    async with AsyncExitStack() as stack:
        stack.push_async_callback(invalidate_cache_pattern, "*")
        redis, blocking = connect(valkey_url, timeout_seconds=1), connect(valkey_url, timeout_seconds=3)
        stack.push_async_callback(redis.aclose)
        stack.push_async_callback(blocking.aclose)
        store = PostgresStore(store_url)
        stack.push_async_callback(store.aclose)
        queue = Queue(
            Door(redis), Door(blocking), namespace="test", debounce_seconds=0, **({"max_pending": 1000} | limits)
        )
        stack.push_async_callback(queue.aclose)
        cipher = TokenCipher([TokenCipher.generate_key()])
        accounts = AccountService(store, cipher)
        account = await store.create_account(
            name="Shop", slug=f"desk-{next(_numbers)}", phone_number_id=f"8100{next(_numbers):06d}",
            access_token=cipher.encrypt("token"), verify_token="verify-me",
        )  # fmt: skip
        no_delivery: Any = NoDelivery()
        conversations = ConversationService(accounts=accounts, store=store, queue=queue, delivery=no_delivery)
        yield Desk(
            redis, queue, store, account, conversations,
            overflow=Overflow(queue, store, max_rows=100, put_timeout_seconds=5),
            drain=OverflowDrain(queue, store, conversations, AccountNotices(accounts)),
            watch=DeadLetterWatch(queue, conversations),
            search=UnansweredSearch(queue, store, grace_seconds=0),
        )  # fmt: skip
