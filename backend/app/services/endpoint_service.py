"""The endpoints of an account: other systems that hear of its events. Owners change them, every member sees them."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

from app.core.fleet.allowance import Allowance
from app.core.secrets import SecretError, TokenCipher
from app.core.slots import CALLER, calling_as
from app.domain.endpoints import (
    KEPT_DELIVERIES,
    MAX_ENDPOINTS,
    TEST_EVENT,
    Answer,
    Delivery,
    Endpoint,
    OutboxEvent,
    Outcome,
    Settlement,
)
from app.domain.errors import InvalidInput, NotFound, RateLimited
from app.domain.models import Role, User
from app.domain.ports import EndpointStore, OutboxStore, Receiver
from app.domain.webhook_signature import new_secret
from app.services.account_service import AccountService

logger = logging.getLogger(__name__)

OFF_AFTER_SECONDS = 3 * 86400.0
"""An endpoint to which no delivery went well for so long is switched off."""
SECRETS_PAGE = 500
OVERLAP_HOURS = 24
"""For so long the secret before signs, too, unless the owner says otherwise."""
TEST_WINDOW_SECONDS = 600.0
MOST_TESTS = 30
"""Of one account in a window: each is a request to a place of the owner's choice, and has one of the few connections
to strangers for up to 10 s."""


class Endpoints(EndpointStore, OutboxStore, Protocol):
    """What this needs of the store."""


class EndpointService:
    def __init__(
        self, accounts: AccountService, store: Endpoints, cipher: TokenCipher, receiver: Receiver, tests: Allowance
    ) -> None:
        self._accounts = accounts
        self._store = store
        self._cipher = cipher
        self._receiver = receiver
        self._tests = tests

    async def create(self, user: User, account_id: str, *, url: str, events: Sequence[str]) -> tuple[Endpoint, str]:
        """With its secret, which nothing shows again. Raises `Conflict("too_many_webhooks")`."""
        await self._accounts.authorize(user, account_id, Role.OWNER)
        self._check(url)
        secret = new_secret()
        endpoint = await self._store.create_endpoint(
            account_id, url=url, events=events, secret=self._cipher.encrypt(secret), most=MAX_ENDPOINTS
        )
        logger.info("endpoint created", extra={"account": account_id, "endpoint": endpoint.id})
        return endpoint, secret

    async def list_for(self, user: User, account_id: str) -> tuple[Endpoint, ...]:
        await self._accounts.authorize(user, account_id, Role.VIEWER)
        return await self._store.list_endpoints(account_id)

    async def get(self, user: User, account_id: str, endpoint_id: str) -> Endpoint:
        return await self._find(user, account_id, endpoint_id, Role.VIEWER)

    async def update(
        self, user: User, account_id: str, endpoint_id: str, changes: Mapping[str, object]
    ) -> tuple[Endpoint, str | None]:
        """`rotate_secret` among the changes makes a new secret, which is returned. For `overlap_hours` deliveries are
        signed with the one before, too; 0: never again. One from before that one signs no more."""
        await self._accounts.authorize(user, account_id, Role.OWNER)
        if "url" in changes:
            self._check(str(changes["url"]))
        secret = new_secret() if changes.get("rotate_secret") else None
        stored = {name: value for name, value in changes.items() if name not in ("rotate_secret", "overlap_hours")}
        if secret is not None:
            hours = changes.get("overlap_hours", OVERLAP_HOURS)
            stored |= {"secret": self._cipher.encrypt(secret), "overlap_seconds": int(str(hours)) * 3600}
        endpoint = await self._store.update_endpoint(account_id, endpoint_id, stored)
        logger.info("endpoint changed", extra={"account": account_id, "endpoint": endpoint_id})
        return endpoint, secret

    async def delete(self, user: User, account_id: str, endpoint_id: str) -> None:
        await self._find(user, account_id, endpoint_id, Role.OWNER)
        await self._store.delete_endpoint(account_id, endpoint_id)
        logger.info("endpoint deleted", extra={"account": account_id, "endpoint": endpoint_id})

    async def deliveries(self, user: User, account_id: str, endpoint_id: str, *, limit: int) -> tuple[Delivery, ...]:
        await self._find(user, account_id, endpoint_id, Role.VIEWER)
        return await self._store.list_deliveries(endpoint_id, limit=min(limit, KEPT_DELIVERIES))

    async def test(self, user: User, account_id: str, endpoint_id: str) -> Answer:
        """One `webhook.test` now, also to an endpoint that is switched off. It is noted among the deliveries; a failure
        does not count against the endpoint. Raises `RateLimited`, and `Unavailable` when Redis is away."""
        endpoint = await self._find(user, account_id, endpoint_id, Role.OWNER)
        if wait := await self._tests.take(account_id):
            raise RateLimited("the webhooks of this account were tested as often as they may", retry_after=wait)
        event = OutboxEvent(str(uuid.uuid4()), account_id, None, TEST_EVENT, {}, datetime.now(UTC))
        answer = await deliver(self._receiver, self._cipher, endpoint, event)
        last = "ok" if answer.outcome is Outcome.DELIVERED and endpoint.enabled else None
        await self._store.outbox_work([Settlement(endpoint.id, (), ((event, answer),), last, OFF_AFTER_SECONDS)], [])
        return answer

    async def _find(self, user: User, account_id: str, endpoint_id: str, needed: Role) -> Endpoint:
        await self._accounts.authorize(user, account_id, needed)
        endpoint = await self._store.get_endpoint(account_id, endpoint_id)
        if endpoint is None:
            raise NotFound("webhook")
        return endpoint

    def _check(self, url: str) -> None:
        if problem := self._receiver.problem_with(url):
            raise InvalidInput(f"the URL {problem}", field="url")


async def deliver(receiver: Receiver, cipher: TokenCipher, endpoint: Endpoint, event: OutboxEvent) -> Answer:
    """One attempt. Of what receivers share it takes the part of its account, however many webhooks that has."""
    secrets: list[str] = []
    for stored in endpoint.signing_secrets(datetime.now(UTC)):
        with suppress(SecretError):
            secrets.append(cipher.decrypt(stored))
    if not secrets:
        return Answer(Outcome.UNREADABLE_SECRET, None, 0)
    with calling_as(CALLER.get()._replace(group=endpoint.account_id)):
        return await receiver.deliver(endpoint.url, event, secrets=secrets)


async def stale_secrets(store: EndpointStore, cipher: TokenCipher) -> AsyncIterator[tuple[str, str, str | None]]:
    """Secrets that the first key did not encrypt: (id of the webhook, as stored, opened; `None`: no key opens it).
    Raises `Unavailable`."""
    after: str | None = None
    while page := await store.endpoint_secrets(after=after, limit=SECRETS_PAGE):
        for endpoint_id, stored in page:
            if cipher.is_current(stored):
                continue
            try:
                opened = cipher.decrypt(stored)
            except SecretError:
                yield endpoint_id, stored, None
            else:
                yield endpoint_id, stored, opened
        after = page[-1][0]


async def rotate_secrets(store: EndpointStore, cipher: TokenCipher) -> tuple[int, int]:
    """Encrypt every secret with the first key. Returns how many were encrypted anew, and how many no key opens: those
    stay as they are. May be interrupted and repeated, and run beside replicas. Raises `Unavailable`."""
    rotated = unreadable = 0
    async for endpoint_id, stored, opened in stale_secrets(store, cipher):
        if opened is None:
            unreadable += 1
            continue
        # Changed meanwhile: by a replica, which encrypts with the first key.
        rotated += await store.replace_endpoint_secret(endpoint_id, expected=stored, secret=cipher.encrypt(opened))
    return rotated, unreadable
