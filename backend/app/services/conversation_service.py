"""What people do with conversations, and what WhatsApp reports about them: listings, take-over, statuses, echoes."""

from __future__ import annotations

import hashlib
import logging
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta

import orjson

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.failure_words import place_of
from app.core.queue import Event, QueueFull
from app.domain.errors import (
    Conflict,
    Erased,
    IdempotencyKeyReused,
    InvalidInput,
    NotFound,
    Unavailable,
    UnknownAccount,
    Unprocessable,
)
from app.domain.foreign_text import one_line
from app.domain.media import (
    CAPTION_CHARACTERS,
    KINDS,
    NAME_CHARACTERS,
    Media,
    MediaState,
    recognise,
    takes_caption,
)
from app.domain.models import (
    EVERY_CONVERSATION,
    WINDOW_HOURS,
    Account,
    Author,
    Conversation,
    ConversationCounts,
    ConversationFilter,
    HandoverReason,
    Message,
    Page,
    Reply,
    ReplyState,
    Role,
    User,
)
from app.domain.ports import MediaStore, Store
from app.domain.webhook import Kind, to_inbound
from app.services.account_service import AccountService
from app.services.attachments import Attachments
from app.services.delivery import Delivered, Delivery, Hold
from app.services.ingest_service import Destination, Incoming
from app.services.statuses import apply_status

logger = logging.getLogger(__name__)

PIECE_BYTES = 262_144
SENDABLE = (
    "JPEG, PNG, WebP stickers, OGG with Opus, MP3, AAC, AMR, M4A, MP4, 3GPP, PDF, Word, Excel, PowerPoint, plain text"
)

COUNTED_TO = 1000
"""How far the conversations of a list are counted."""


class ConversationService:
    def __init__(
        self,
        *,
        accounts: AccountService,
        store: Store,
        queue: Destination,
        delivery: Delivery,
        files: MediaStore,
        attachments: Attachments,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._accounts = accounts
        self._store = store
        self._queue = queue
        self._delivery = delivery
        self._files = files
        self._attachments = attachments
        self._clock = clock

    async def list_for(
        self,
        user: User,
        account_id: str,
        *,
        limit: int,
        cursor: str | None,
        only: ConversationFilter = EVERY_CONVERSATION,
    ) -> Page[Conversation]:
        await self._accounts.authorize(user, account_id, Role.VIEWER)
        return await self._store.list_conversations(account_id, limit=limit, cursor=cursor, only=only)

    async def counts(self, user: User, account_id: str) -> ConversationCounts:
        await self._accounts.authorize(user, account_id, Role.VIEWER)
        return await self._store.count_conversations(account_id, most=COUNTED_TO)

    async def get(self, user: User, conversation_id: str) -> Conversation:
        return await self._authorized(user, conversation_id, Role.VIEWER)

    async def messages(self, user: User, conversation_id: str, *, limit: int, cursor: str | None) -> Page[Message]:
        await self._authorized(user, conversation_id, Role.VIEWER)
        return await self._store.list_messages(conversation_id, limit=limit, cursor=cursor)

    async def media_of(self, messages: Sequence[Message]) -> Mapping[str, Media]:
        """The files of messages that the caller has got already, by the messages' ids."""
        with_file = [message.id for message in messages if message.type in KINDS]
        return await self._store.media_of(with_file) if with_file else {}

    async def media(self, user: User, message_id: str) -> Media:
        """The file of a message, if it is kept. Raises `NotFound("media")`, also to those who may not know of it."""
        media = await self._store.get_media(message_id)
        if media is None or not media.is_kept:
            raise NotFound("media")
        try:
            await self._accounts.authorize(user, media.account_id, Role.VIEWER)
        except NotFound as exc:
            raise NotFound("media") from exc
        return media

    def read_media(self, media: Media, *, start: int, end: int) -> AsyncIterator[bytes]:
        """As `MediaStore.read`."""
        return self._files.read(media.id, start=start, end=end)

    async def set_bot(self, user: User, conversation_id: str, *, enabled: bool) -> Conversation:
        conversation = await self._authorized(user, conversation_id, Role.AGENT)
        if enabled and conversation.contact.group_id is not None:
            raise Conflict("group_read_only", "the bot never answers in a group")
        return await self._store.set_bot(conversation_id, enabled=enabled)

    async def mark_read(self, user: User, conversation_id: str) -> Conversation:
        await self._authorized(user, conversation_id, Role.AGENT)
        return await self._store.mark_read(conversation_id)

    async def reply_as_human(
        self, user: User, conversation_id: str, text: str, *, idempotency_key: str | None
    ) -> Reply:
        """Take the conversation over and send `text`: stored and queued here, sent by a worker.

        The same `idempotency_key` gives the same reply, however often it is asked for. Raises `Conflict`, and
        `IdempotencyKeyReused` when the key belongs to another text.
        """
        conversation = await self._writable(user, conversation_id)
        key = f"human:{conversation_id}:{idempotency_key or uuid.uuid4()}"
        reply = await self._store.open_reply(
            conversation_id, key=key, author=Author.HUMAN, covers=(), fence=0, body=text, sent_by=user.id
        )
        if reply.body != text or reply.media_id is not None:
            raise IdempotencyKeyReused("this Idempotency-Key was used with another text", field="Idempotency-Key")
        await self._send_soon(conversation, reply, key, text)
        return reply

    async def reply_with_file(
        self,
        user: User,
        conversation_id: str,
        *,
        content: bytes,
        name: str | None,
        text: str,
        idempotency_key: str | None,
    ) -> Reply:
        """As `reply_as_human`, with a file, which is what its bytes say it is. Raises `InvalidInput` for what may not
        be sent. A scanner for viruses belongs here, before anything is kept."""
        conversation = await self._writable(user, conversation_id)
        name = one_line((name or "").replace("\\", "/").rpartition("/")[2], NAME_CHARACTERS) or None
        form = recognise(content[:1024], name)
        if form is None:
            raise InvalidInput(f"the file is none of {SENDABLE}", field="file")
        if len(content) > form.max_bytes:
            raise InvalidInput(f"a file of type {form.mime} may have {form.max_bytes} bytes", field="file")
        if takes_caption(form.kind) and len(text) > CAPTION_CHARACTERS:
            raise InvalidInput(f"a caption may have {CAPTION_CHARACTERS} characters", field="text")
        media_id, digest = str(uuid.uuid4()), hashlib.sha256(content).hexdigest()
        account_id = conversation.account_id
        await self._store.create_media(media_id, account_id=account_id, kind=form.kind, mime=form.mime, name=name)
        await self._files.put(media_id, _in_pieces(content), mime=form.mime)
        await self._store.settle_media(media_id, MediaState.KEPT, sha256=digest, size=len(content))
        key = f"human:{conversation_id}:{idempotency_key or uuid.uuid4()}"
        reply, media = await self._store.open_file_reply(
            conversation_id, key=key, body=text, media_id=media_id, sent_by=user.id
        )
        if media is None or media.sha256 != digest or reply.body != text:
            raise IdempotencyKeyReused("this Idempotency-Key was used with another message", field="Idempotency-Key")
        await self._send_soon(conversation, reply, key, text)
        return reply

    async def _writable(self, user: User, conversation_id: str) -> Conversation:
        """Raises `Conflict` where a person cannot write now."""
        conversation = await self._authorized(user, conversation_id, Role.AGENT)
        if conversation.contact.group_id is not None:
            raise Conflict("group_read_only", "Chorus only reads groups: answer there from the WhatsApp Business app")
        opened = conversation.last_inbound_at
        if opened is None or self._clock.now() - opened > timedelta(hours=WINDOW_HOURS):
            raise Conflict(
                "window_closed", "WhatsApp allows free text only within 24 hours of the customer's last message"
            )
        return conversation

    async def _send_soon(self, conversation: Conversation, reply: Reply, key: str, text: str) -> None:
        if reply.state is not ReplyState.PENDING:
            return
        account = await self._accounts.by_id(conversation.account_id)
        event = outbound_event(account.phone_number_id, account.id, conversation.id, key, text)
        if (await self._queue.put([event])).diverted:
            raise QueueFull("queue", "too many messages and replies of this account wait", retry_after=5.0)

    async def send_human(self, incoming: Incoming, hold: Hold) -> Delivered:
        """The worker's half of `reply_as_human`."""
        body = incoming.body
        account = await self._accounts.by_id(body["account_id"])
        try:
            reply = await self._store.open_reply(
                body["conversation_id"], key=body["key"], author=Author.HUMAN, covers=(), fence=hold.fence,
                body=body["text"],
            )  # fmt: skip
        except NotFound as exc:
            raise Unprocessable("the conversation no longer exists") from exc
        if reply.state is ReplyState.SENT:
            return Delivered(reply.state)
        media = await self._store.media_to_send(reply.media_id) if reply.media_id else None
        return await self._delivery.deliver(
            reply, file=media, account=account, hold=hold, accepted_at=incoming.accepted_at, resend=False
        )

    async def apply_status(self, incoming: Incoming) -> tuple[str, str]:
        """Move one outbound message along. Returns the outcome, and why the message failed if it did."""
        account = await self._account(incoming)
        outcome, reason = await apply_status(self._store, account.id, incoming)
        if reason:
            # WhatsApp had accepted it: nothing but this status says that the customer has no answer.
            logger.warning("a message that WhatsApp had accepted has failed", extra={"reason": reason})
        return outcome, reason

    async def record_echo(self, incoming: Incoming) -> str:
        """A person answered from the phone: the bot is silent from now on. Without the file that they sent. Returns the
        outcome."""
        return await self._record_echo(await self._account(incoming), incoming)

    async def receive_echo(self, incoming: Incoming) -> str:
        """`record_echo`, then the file that they sent is kept for people. Raises what `Attachments.keep` raises: the
        bot is silent all the same."""
        account = await self._account(incoming)
        outcome = await self._record_echo(account, incoming)
        if outcome == "taken_over":
            message = to_inbound(incoming.body["message"], incoming.accepted_at)
            await self._attachments.keep(account, message, incoming.accepted_at)
        return outcome

    async def _record_echo(self, account: Account, incoming: Incoming) -> str:
        body = incoming.body
        message = to_inbound(body["message"], incoming.accepted_at)
        try:
            await self._store.record_echo(account.id, wa_id=body["wa_id"], user_id=body["user_id"], message=message)
        except Erased:
            return "erased"
        return "taken_over"

    async def leave_to_a_person(self, messages: Sequence[Incoming], reason: HandoverReason) -> None:
        """Messages of one customer that the bot does not answer: store them and call a person. Raises
        `UnknownAccount`."""
        conversation = await self.record(messages)
        await self._store.set_needs_human(conversation.id, reason)

    async def record(self, messages: Sequence[Incoming]) -> Conversation:
        """Store the messages of one customer. Raises `UnknownAccount`."""
        account = await self._account(messages[0])
        last = messages[-1].body
        inbound = await self._store.record_inbound(
            account.id,
            wa_id=last["wa_id"],
            user_id=last["user_id"],
            name=last["name"],
            messages=tuple(to_inbound(incoming.body["message"], incoming.accepted_at) for incoming in messages),
            other_wa_id=last.get("other_wa_id"),
        )
        return inbound.conversation

    async def tell_given_up(self, incoming: Incoming) -> bool:
        """A message, or a person's reply, was given up on: a person hears of it where the conversation is known.
        Returns whether it is. Raises `UnknownAccount`."""
        if incoming.kind is Kind.OUTBOUND:
            if await self._store.get_conversation(incoming.body["conversation_id"]) is None:
                return False
            await self._store.set_needs_human(incoming.body["conversation_id"], HandoverReason.DEAD_LETTER)
            return True
        if incoming.kind is not Kind.MESSAGE:
            return False
        try:
            await self.leave_to_a_person([incoming], HandoverReason.DEAD_LETTER)
        except (Unavailable, UnknownAccount):
            raise
        except Erased:
            return False
        except Exception as exc:  # noqa: BLE001  what cannot be stored may be why it was given up on
            logger.warning("a message that was given up on cannot be stored", extra={"reason": place_of(exc)})
            await self._flag_sender(incoming)
        return True

    async def _flag_sender(self, incoming: Incoming) -> None:
        account, body = await self._account(incoming), incoming.body
        inbound = await self._store.record_inbound(
            account.id, wa_id=body["wa_id"], user_id=body["user_id"], name=None, messages=()
        )
        await self._store.set_needs_human(inbound.conversation.id, HandoverReason.DEAD_LETTER)

    async def _account(self, incoming: Incoming) -> Account:
        account = await self._accounts.by_phone_number_id(incoming.phone_number_id)
        if account is None:
            raise UnknownAccount(incoming.phone_number_id)
        return account

    async def _authorized(self, user: User, conversation_id: str, needed: Role) -> Conversation:
        """To a caller without access a conversation does not exist."""
        conversation = await self._store.get_conversation(conversation_id)
        if conversation is None:
            raise NotFound("conversation")
        try:
            await self._accounts.authorize(user, conversation.account_id, needed)
        except NotFound as exc:
            raise NotFound("conversation") from exc
        return conversation


async def _in_pieces(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), PIECE_BYTES):
        yield content[at : at + PIECE_BYTES]


def outbound_event(phone_number_id: str, account_id: str, conversation_id: str, key: str, text: str) -> Event:
    """A person's reply on its way."""
    body = {"conversation_id": conversation_id, "account_id": account_id, "key": key, "text": text}
    payload = orjson.dumps({"kind": Kind.OUTBOUND, "number": "", "body": body})
    return Event(key, outbound_mailbox(phone_number_id, conversation_id), payload, immediate=True)


def outbound_mailbox(phone_number_id: str, conversation_id: str) -> str:
    """The account is in the name: each has its turn, and its share of the queue."""
    return f"{Kind.OUTBOUND}:{phone_number_id}:{conversation_id}"
