"""Did it go out? What is known of a send while the database does not know it, or not yet.

A send is recorded by the answer to it, and proven by the statuses that follow. While the database is slow or away both
wait: the answer as a receipt in Redis, a status in its mailbox. A send must not be judged without a look there.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import datetime

from app.core.queue import Queue
from app.domain.models import Account, InboxState, Recipient
from app.domain.phone import same_line
from app.domain.ports import Store
from app.domain.webhook import Kind
from app.services.ingest_service import Incoming, decode
from app.services.receipts import Receipts
from app.services.statuses import apply_status, outbound_key
from app.services.uptime import Uptime

logger = logging.getLogger(__name__)

UNSENT = "unsent"
MAX_WAITING = 200
"""Of the statuses that wait for one customer, the newest."""


class Proofs:
    def __init__(self, store: Store, queue: Queue, receipts: Receipts, uptime: Uptime) -> None:
        """`uptime`: of all that a status passes on its way into the database."""
        self._store = store
        self._queue = queue
        self._receipts = receipts
        self._uptime = uptime

    async def note(self, key: str, wamid: str) -> None:
        """WhatsApp accepted the message `key`, and the database does not take it. Raises `Unavailable`."""
        await self._receipts.note(key, wamid)

    async def note_unsent(self, attempt: str) -> None:
        """The attempt ended before anything was sent, or WhatsApp refused it, and the database may think it is under
        way. Raises `Unavailable`."""
        await self._receipts.note(attempt, UNSENT)

    async def is_unsent(self, attempt: str) -> bool:
        """Raises `Unavailable`."""
        return await self._receipts.find(attempt) == UNSENT

    async def apply(self, account: Account, to: Recipient, reply_key: str, *, part: int, last: bool) -> bool:
        """Put into the database what is known of a part, so that it can say what became of it. `False`: there is
        nothing. Raises `Unavailable`."""
        key = f"{reply_key}#{part}"
        if wamid := await self._receipts.find(key):
            await self._store.complete_part(reply_key, part=part, wamid=wamid, last=last)
            logger.info("a send is proven by its receipt", extra={"reply": reply_key})
            return True
        found = False
        async for incoming in self._waiting(account.phone_number_id, to):
            if outbound_key(incoming) == key:
                await apply_status(self._store, account.id, incoming)
                found = True
        if found:
            logger.info("a send is proven by a status that waited", extra={"reply": reply_key})
        return found

    async def are_on_their_way(self) -> bool:
        """Events accepted while the queue was away are still being moved into it; a proof may be among them."""
        return await self._store.inbox_state() is not InboxState.CLOSED

    def lost_seconds(self, since: datetime) -> float:
        """Of the time since then: in which no status could have arrived and been applied."""
        return self._uptime.lost_seconds(since)

    async def _waiting(self, number: str, to: Recipient) -> AsyncIterator[Incoming]:
        """The statuses about this customer's messages that are not applied yet, in order."""
        peers = [*(same_line(to.wa_id) if to.wa_id else ()), *([to.user_id] if to.user_id else ())]
        for peer in peers:
            for event in await self._queue.look(f"{Kind.STATUS}:{number}:{peer}", limit=MAX_WAITING):
                yield decode(event)
