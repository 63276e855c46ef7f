"""A customer is erased everywhere, or handed out. docs/privacy.md lists the places."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from app.core.fleet.pacing import Pacer
from app.core.queue import DeadLetter, Queue
from app.domain.errors import NotFound
from app.domain.models import STATUS_RANK, Account, ContactExport, ContactTraces, Json, Role, Status, User
from app.domain.phone import same_line
from app.domain.ports import AuditStore, PrivacyStore
from app.domain.webhook import Kind
from app.services.account_service import AccountService
from app.services.conversation_service import outbound_mailbox
from app.services.ingest_service import message_id_in
from app.services.journal import ROW
from app.services.receipts import Receipts

logger = logging.getLogger(__name__)

EXPORT_PAGE = 500
MAX_PARTS = 20
"""More messages than one reply is ever split into."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """What is gone: rows of the database by place, and what the queue had."""

    database: Mapping[str, int]
    queue: Mapping[str, int]


class PrivacyService:
    def __init__(
        self,
        accounts: AccountService,
        store: PrivacyStore,
        audit: AuditStore,
        queue: Queue,
        receipts: Receipts,
        pacer: Pacer,
        *,
        is_journalled: bool = False,
    ) -> None:
        """`is_journalled`: events come into the queue by the journal, which puts its rows behind their ids."""
        self._accounts = accounts
        self._store = store
        self._audit = audit
        self._queue = queue
        self._receipts = receipts
        self._pacer = pacer
        self._separator = ROW if is_journalled else None

    async def erase(self, user: User, contact_id: str) -> Erasure:
        """For owners. Raises `NotFound("contact")`, `Unavailable`: ask again, what is gone by then stays gone.

        1. the queue forgets: what waits is gone, and who is handling it has lost it, so that nothing more is written
           under its claim
        2. the database forgets, and remembers digests of the messages' ids: what was in a worker's hands at that moment
           finds no conversation to answer in, and is not stored again
        3. Redis once more, for what was written between the two
        """
        traces = await self._store.contact_traces(contact_id)
        if traces is None:
            raise NotFound("contact")
        await self._authorize(user, traces.account_id)
        if traces.removed is not None:
            return Erasure(traces.removed, {})
        mailboxes, is_about = _mailboxes(traces), letters_about(traces)
        ids = _event_ids(traces.phone_number_id, traces.message_ids)
        erased = await self._queue.erase(mailboxes, ids, is_about, separator=self._separator)
        seen = sorted({message_id_in(event_id) for event_id in erased.event_ids} - {""})
        removed = await self._store.erase_contact(
            contact_id, message_ids=seen, mailboxes=mailboxes, words=(*_peers(traces), *_digits(traces))
        )
        await self._forget_beside_the_queue(traces)
        again = await self._queue.erase(
            [name for name in mailboxes if name.startswith(f"{Kind.OUTBOUND}:")],
            [*ids, *_event_ids(traces.phone_number_id, seen), *traces.reply_keys],
            is_about,
            separator=self._separator,
        )
        queue = {
            "events": len(erased.event_ids) + len(again.event_ids) - erased.dead_letters - again.dead_letters,
            "claims": erased.claims + again.claims,
            "dead_letters": erased.dead_letters + again.dead_letters,
            "ids": erased.marks + again.marks,
        }
        logger.warning("a customer was erased", extra={"account": traces.account_id, "details": {**removed, **queue}})
        return Erasure(removed, queue)

    async def _forget_beside_the_queue(self, traces: ContactTraces) -> None:
        keys = [f"{key}#{part}" for key in traces.reply_keys for part in range(MAX_PARTS)]
        await self._receipts.forget(keys)
        await self._pacer.forget(traces.phone_number_id, _peers(traces))

    async def export(self, user: User, contact_id: str) -> tuple[ContactExport, AsyncIterator[Json]]:
        """For owners: the contact with its conversations, and all messages, the oldest of each conversation first.
        Raises `NotFound("contact")`."""
        found = await self._store.export_contact(contact_id)
        if found is None:
            raise NotFound("contact")
        account = await self._authorize(user, found.account_id)
        subject = hashlib.sha256(str(found.contact["id"]).encode()).hexdigest()[:16]  # as where one is erased
        await self._audit.note_change("contact.exported", subject, {}, phone_number_id=account.phone_number_id)
        return found, self._messages([str(conversation["id"]) for conversation in found.conversations])

    async def _messages(self, conversation_ids: Sequence[str]) -> AsyncIterator[Json]:
        for conversation_id in conversation_ids:
            after = 0
            while page := await self._store.export_messages(conversation_id, after_seq=after, limit=EXPORT_PAGE):
                for message in page:
                    yield message
                after = page[-1]["seq"]

    async def _authorize(self, user: User, account_id: str) -> Account:
        """To a stranger a contact does not exist."""
        try:
            return await self._accounts.authorize(user, account_id, Role.OWNER)
        except NotFound as exc:
            raise NotFound("contact") from exc


def _digits(traces: ContactTraces) -> tuple[str, ...]:
    """Every form of every number."""
    return tuple(dict.fromkeys(form for number in traces.wa_ids for form in same_line(number)))


def _peers(traces: ContactTraces) -> tuple[str, ...]:
    """What their mailboxes may be named after."""
    group = (traces.group_id,) if traces.group_id else ()
    return (*_digits(traces), *traces.user_ids, *group)


def _mailboxes(traces: ContactTraces) -> tuple[str, ...]:
    number = traces.phone_number_id
    names = [f"{kind}:{number}:{peer}" for kind in (Kind.MESSAGE, Kind.STATUS, Kind.ECHO) for peer in _peers(traces)]
    names += [f"{Kind.MESSAGE}:{number}:system-{peer}" for peer in _peers(traces)]
    names += [f"{Kind.STATUS}:{number}:{wamid}" for wamid in traces.message_ids]  # a status that names no recipient
    for conversation_id in traces.conversation_ids:
        names += [outbound_mailbox(number, conversation_id), f"{Kind.OUTBOUND}:{conversation_id}"]
    return tuple(names)


def letters_about(traces: ContactTraces) -> Callable[[DeadLetter], bool]:
    """Is a dead letter this customer's? It says so by its mailbox or its id; one that cannot be read has a number or
    an id of theirs in it. Not any letter that has: another customer may have sent their contact card."""
    names, known = frozenset(_mailboxes(traces)), frozenset(traces.message_ids)
    words = [f'"{word}"'.encode() for word in (*_peers(traces), *traces.message_ids)]

    def is_about(letter: DeadLetter) -> bool:
        event = letter.event
        number = "".join(event.id.split(":")[1:2])
        is_of_account = number == traces.phone_number_id  # two accounts may have one message id
        if event.mailbox in names or (is_of_account and message_id_in(event.id) in known):
            return True
        is_unreadable = event.mailbox.partition(":")[0] == Kind.UNKNOWN and (is_of_account or not number)
        return is_unreadable and any(word in event.payload for word in words)

    return is_about


def _event_ids(number: str, message_ids: Sequence[str]) -> list[str]:
    """Under which the queue may have seen them."""
    statuses = [name for name in (*STATUS_RANK, Status.FAILED) if name not in (Status.RECEIVED, Status.PENDING)]
    return [
        event_id
        for wamid in message_ids
        for event_id in (
            f"{Kind.MESSAGE}:{number}:{wamid}",
            f"{Kind.ECHO}:{number}:{wamid}",
            *(f"{Kind.STATUS}:{number}:{wamid}:{name}" for name in statuses),
        )
    ]
