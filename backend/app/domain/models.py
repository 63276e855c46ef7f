"""The vocabulary: frozen, comparable values that every layer speaks. No behaviour that needs the outside world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from app.domain.usage import Usage, UsageChange

T = TypeVar("T")

Json = Mapping[str, Any]
"""An object as it came from outside: nothing is known of its values until they are looked at."""

TEXT_LIMIT = 4096
"""Characters in one WhatsApp text message (Cloud API reference, text object)."""

WINDOW_HOURS = 24
"""Free-form replies are allowed this long after the customer's last message (Cloud API, customer service window)."""


MAX_OUTPUT_TOKENS = 2048
"""The longest answer a profile may ask for. An attempt has 15 s and counts as slow after 12: at 150 tokens a second, a
speed that small models exceed, it takes 13.7 s. And two messages of WhatsApp hold no more: 8,192 characters."""


class Direction(StrEnum):
    INBOUND = "inbound"
    OUTBOUND = "outbound"


class Author(StrEnum):
    """Who wrote a message."""

    CUSTOMER = "customer"
    BOT = "bot"
    HUMAN = "human"


class Status(StrEnum):
    """Where a message is. Inbound ones are `received`. The order is `STATUS_RANK`."""

    RECEIVED = "received"
    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    DELIVERED = "delivered"
    READ = "read"
    PLAYED = "played"
    FAILED = "failed"


STATUS_RANK: Mapping[str, int] = {
    Status.RECEIVED: 0, Status.PENDING: 0, Status.SENDING: 1, Status.SENT: 2,
    Status.DELIVERED: 3, Status.READ: 4, Status.PLAYED: 5,
}  # fmt: skip
"""A status never moves to a lower rank. `failed` has none: it is recorded with its error, at any time,
unless the message is known to have been delivered."""


class HandoverReason(StrEnum):
    """Why a person is called. Stored with the conversation and shown to people: stable words."""

    CUSTOMER_ASKED = "customer_asked"
    """By a keyword of the profile, or as the model understood it."""
    NEEDS_PERSON = "needs_person"
    """The model found that only a person can do what the customer needs."""
    PROMISED = "promised"
    """The bot's text says that a person will see to it."""
    MODEL_REFUSED = "model_refused"
    MODEL_UNAVAILABLE = "model_unavailable"
    """No answer of the model before the reply deadline."""
    WINDOW_CLOSED = "window_closed"
    """The customer's last message is older than WhatsApp's 24 hours."""
    SEND_FAILED = "send_failed"
    SEND_UNPROVEN = "send_unproven"
    """A send of unknown outcome, and no status proved it in time."""
    ACCOUNT_BLOCKED = "account_blocked"
    """The account's token or number is refused by WhatsApp: nothing can be sent."""
    UNREADABLE = "unreadable"
    """A message that only a person can read."""
    TOKEN_BUDGET = "daily_token_budget"
    """The account has used up the tokens that its owner gives it in a day."""
    DAILY_LIMIT = "daily_limit"
    """The conversation, or its account, has had as many answers or tokens of the model as it may in a day."""
    OVERFLOW = "overflow"
    """So many messages waited that this one went past the queue: it is stored, and the bot has not seen it."""
    DEAD_LETTER = "dead_letter"
    """A message was given up on; it can be replayed."""
    UNANSWERED = "unanswered"
    """A message was found without an answer after an outage, and an answer now could be the second one, or too late."""
    REPLY_LOOP = "reply_loop"
    """So many automatic replies in so short a time that the other side is probably a robot."""


class OnHandover(StrEnum):
    """What the bot does once the customer knows that a person will come."""

    PAUSE = "pause"
    CONTINUE = "continue"


@dataclass(frozen=True, slots=True)
class Handover:
    """A person is called, with the reply that is stored in the same step. `pause_minutes`: how long the bot is silent
    after that reply; `None`: it goes on."""

    reason: HandoverReason
    pause_minutes: int | None = None


class NoticeOutcome(StrEnum):
    """What became of the text to the profile's `handover_notify_number`."""

    SENT = "sent"
    WINDOW_CLOSED = "window_closed"
    """That number has not written to the business for 24 hours: WhatsApp takes no free text for it."""
    FAILED = "failed"
    """WhatsApp refused it, or reported later that it did not arrive."""
    UNKNOWN = "unknown"
    """A replica ended while it was sent."""


@dataclass(frozen=True, slots=True)
class HandoverNotice:
    """A text that is to go to `number` (digits). `outcome`: it is over without having been sent."""

    id: str
    account_id: str
    conversation_id: str
    created_at: datetime
    number: str
    name: str | None
    """The customer's, as they set it; their number is `wa_id`."""
    wa_id: str | None
    reason: str | None
    outcome: NoticeOutcome | None


class BlockReason(StrEnum):
    """Why WhatsApp takes nothing from an account. Stored, shown and a metric's label: stable words."""

    TOKEN_INVALID = "token_invalid"
    """Expired, revoked, or of another app."""
    TOKEN_UNREADABLE = "token_unreadable"
    """Stored under another ENCRYPTION_KEY."""
    TOKEN_MALFORMED = "token_malformed"
    """It has characters that no token has."""
    PERMISSION_MISSING = "permission_missing"
    NUMBER_NOT_REGISTERED = "number_not_registered"
    """The number was deleted, is not registered, or belongs to another token."""
    DISPLAY_NAME_UNAPPROVED = "display_name_unapproved"
    ACCOUNT_LOCKED = "account_locked"
    POLICY_VIOLATION = "policy_violation"
    PAYMENT_PROBLEM = "payment_problem"
    MESSAGING_LIMIT = "messaging_limit"
    """Too many messages were blocked or flagged as spam, or the number's limit of conversations is reached."""


class Fallback(StrEnum):
    """Why a customer gets a text of the profile instead of the model's answer. Stored with the reply: stable words."""

    REFUSED = "refused"
    """The model does not answer this; the turn is left out of what it reads later."""
    UNAVAILABLE = "unavailable"
    """No answer in time; the question stays in the history."""
    INTERIM = "interim"
    """Not a fallback text but the interim text, before an answer that takes long."""


class InboxState(StrEnum):
    """`open`: the queue is away, events go in · `closing`: it is back, the rest is moved, nothing goes in ·
    `closed`: not in use, and empty."""

    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Role(StrEnum):
    """What a member may do with an account: agents write, viewers read, owners also change settings."""

    OWNER = "owner"
    AGENT = "agent"
    VIEWER = "viewer"


@dataclass(frozen=True, slots=True)
class Account:
    """A business and its WhatsApp number. `access_token` is ciphertext; only the WhatsApp adapter decrypts it."""

    id: str
    name: str
    slug: str
    phone_number_id: str
    access_token: str = field(repr=False)
    verify_token: str = field(repr=False)
    phone_number: str | None
    is_active: bool
    bot_auto_on: bool
    created_at: datetime
    updated_at: datetime
    refusals: int = 0
    """Sends in a row that WhatsApp refused because of the account; counted until it is blocked."""
    blocked_reason: str | None = None
    """Set (a `BlockReason`) with `blocked_since` once the refusal is confirmed; cleared by a good send and by a changed
    token, number or `is_active`."""
    blocked_since: datetime | None = None
    last_notice: Json | None = None
    """Meta's last report about the account or its number: `at`, `field`, `event`, `words`, `severity`."""
    bootstrap_digest: str | None = field(default=None, repr=False)
    """Of the WHATSAPP_TOKEN that the settings gave last: a changed setting replaces the token, an old one does not."""
    app_id: str | None = None
    """The Meta app that speaks for the number; `None`: the first of META_APP_SECRET."""
    daily_token_budget: int | None = None
    """Tokens of the model in a UTC day, in both directions; over it a person is called. `None`: no such limit."""

    @property
    def is_blocked(self) -> bool:
        return self.blocked_since is not None


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the store made of a refused send. `is_current`: the account still has the token that was refused."""

    is_current: bool
    is_blocked: bool
    is_news: bool
    """It was not blocked before."""


@dataclass(frozen=True, slots=True)
class BlockedAccounts:
    """Active accounts from which WhatsApp takes nothing: how many by reason, and the longest blocked of them."""

    reasons: Mapping[str, int] = field(default_factory=dict)
    accounts: tuple[Account, ...] = ()

    @property
    def count(self) -> int:
        return sum(self.reasons.values())


@dataclass(frozen=True, slots=True)
class TableSecurity:
    """How a table of the database guards its rows: is row-level security on, and with which policies?"""

    row_security: bool
    policies: tuple[str, ...]


MEDIA_KINDS = ("image", "sticker", "audio", "video", "document")
"""Types of messages with a file (Cloud API, webhooks)."""
MAX_MEDIA_BYTES = 14_000_000
"""Of files in one request: with base64 and the texts Gemini takes 20 MB (Gemini API, inline data)."""
MAX_MEDIA_SECONDS = 3600
MAX_MEDIA_PAGES = 1000
"""Gemini takes no longer documents (Gemini API, documents)."""


@dataclass(frozen=True, slots=True)
class BotProfile:
    """How an account's bot introduces itself and what it knows. Free-form parts stay JSON."""

    account_id: str
    business_name: str = ""
    description: str = ""
    address: str = ""
    hours: str = ""
    knowledge_base: str = ""
    custom_fields: Json = field(default_factory=dict)
    template_config: Json = field(default_factory=dict)
    fallback_text: str = "Thank you for your message. Somebody from our team will get back to you shortly."
    interim_text: str = "Thank you for your message. The answer takes a little longer than usual; it will come here."
    """Sent once to a customer who has waited INTERIM_SECONDS for the model; blank: nothing is sent."""
    non_text_reply: str = "I cannot open this one. Could you please write it to me?"
    model: str | None = None
    temperature: float | None = None
    max_output_tokens: int | None = None
    resend_ambiguous: bool = False
    greeting_text: str | None = None
    """Sent when a customer opens the chat for the first time without writing; `None`: nothing is sent."""
    auto_reply_limit: int = 20
    """Automatic replies to one conversation within `auto_reply_minutes`, above which a person is called and the bot
    pauses: two robots would answer each other for ever."""
    auto_reply_minutes: int = 10
    media_understanding: bool = True
    """Does the model get what customers send that is not text? If not, `non_text_reply` answers it."""
    media_kinds: tuple[str, ...] = MEDIA_KINDS
    """What of it the model gets; other kinds are answered as what is over a limit."""
    media_max_bytes: int | None = None
    """Of the files of one run of messages, to the model; `None`, or more than MEDIA_MAX_BYTES: that."""
    media_max_seconds: int = 600
    """Of a recording or a video, to the model."""
    media_max_pages: int | None = None
    """Of a PDF, to the model; `None`: they are not counted."""
    handover_keywords: tuple[str, ...] = ()
    """Who writes one of these, as whole words, gets a person without the model being asked."""
    on_handover: OnHandover = OnHandover.PAUSE
    handover_pause_minutes: int = 60
    """How long the bot is silent, unless a person gives the conversation back to it before."""
    handover_notify_number: str | None = None
    """Digits. Gets a WhatsApp text for each call of a person."""
    business_hours: Json | None = None
    """When people are there: see `domain.business_hours`; `None`: not known."""
    outside_hours_text: str | None = None
    """Sent instead of `fallback_text` outside these hours."""
    stop_words: tuple[str, ...] = ()
    """Who writes one of these, and nothing else, gets no automatic answers any more, as with STOP."""
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Invalidation:
    """A cache key or pattern that a commit has made old."""

    id: int
    pattern: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """A conversation in which a customer may wait: a message came, or a person wrote a reply, and the store has not
    been told yet that nothing waits any more."""

    conversation_id: str
    account_id: str
    phone_number_id: str
    wa_id: str | None
    user_id: str | None
    name: str | None
    is_served: bool
    """The bot is on and the account active."""
    awaiting_since: datetime
    last_message_at: datetime
    needs_human_since: datetime | None


@dataclass(frozen=True, slots=True)
class UnansweredMessage:
    """A message of a customer that no finished reply covers. `payload`: as WhatsApp delivered it."""

    wa_message_id: str
    payload: Json
    timestamp: datetime
    created_at: datetime


@dataclass(frozen=True, slots=True)
class UnsentReply:
    """A person's reply that has not ended."""

    key: str
    body: str


@dataclass(frozen=True, slots=True)
class Unanswered:
    """What waits in a conversation, oldest first. `has_news`: something has just happened there; look again later."""

    conversation_id: str
    has_news: bool
    messages: tuple[UnansweredMessage, ...]
    replies: tuple[UnsentReply, ...]


@dataclass(frozen=True, slots=True)
class DatabaseHistory:
    """Which history of the data the database has: with another `identity`, or a lower `position`, what was read before
    may never have been."""

    identity: str
    position: int


@dataclass(frozen=True, slots=True)
class Contact:
    """A customer of one account, or a group (`group_id`). A customer has `wa_id` (digits), `user_id` (business-scoped)
    or both; neither only when their number went to another person: nothing can be sent to them."""

    id: str
    wa_id: str | None
    user_id: str | None
    name: str | None
    group_id: str | None = None


@dataclass(frozen=True, slots=True)
class LastMessage:
    """How a conversation ends. `text`: its first 200 characters; reactions do not count."""

    author: Author
    type: str
    text: str | None
    status: Status


@dataclass(frozen=True, slots=True)
class Conversation:
    """One contact's exchange with one account."""

    id: str
    account_id: str
    contact: Contact
    bot_enabled: bool
    needs_human: bool
    unread_count: int
    last_inbound_at: datetime | None
    created_at: datetime
    updated_at: datetime
    needs_human_reason: str | None = None
    needs_human_since: datetime | None = None
    bot_paused_until: datetime | None = None
    """The bot is silent until then, because a person is to come."""
    handover_key: str | None = None
    """Of the reply that began the pause; it may still go out."""
    handover_notice: str | None = None
    """What became of the text to the profile's number (a `NoticeOutcome`)."""
    handover_notice_error: Json | None = None
    """Of a text that failed: Meta's `code`, as in the error of a message."""
    opted_out_since: datetime | None = None
    """The customer wants no automatic answers; the bot is off."""
    last_message_at: datetime | None = field(default=None, compare=False)
    """When something was last said here, by our clock: the order of lists."""
    last_message: LastMessage | None = field(default=None, compare=False)
    """Known where conversations are shown: in lists, and for a single one."""


@dataclass(frozen=True, slots=True)
class ConversationFilter:
    """Which conversations a list has: those that meet all that is not `None`."""

    needs_human: bool | None = None
    unread: bool | None = None
    bot: bool | None = None
    """Does the bot answer there?"""
    q: str | None = None
    """Each of its words begins a word of the contact's name or of one message, or it is a part of the number."""


EVERY_CONVERSATION = ConversationFilter()


@dataclass(frozen=True, slots=True)
class ConversationCounts:
    """How many conversations each list has; `counted_to` means as many or more."""

    needs_human: int
    unread: int
    bot: int
    all: int
    counted_to: int


@dataclass(frozen=True, slots=True)
class ContactTraces:
    """What of a contact may be outside the database."""

    account_id: str
    phone_number_id: str = ""
    group_id: str | None = None
    wa_ids: tuple[str, ...] = ()
    """The present number, and those before it."""
    user_ids: tuple[str, ...] = ()
    conversation_ids: tuple[str, ...] = ()
    message_ids: tuple[str, ...] = ()
    """WhatsApp's, of messages of both sides."""
    reply_keys: tuple[str, ...] = ()
    removed: Mapping[str, int] | None = None
    """Set alone: the contact was erased before, and these rows went."""


@dataclass(frozen=True, slots=True)
class ContactExport:
    """As stored, for the person themselves; the messages come apart."""

    account_id: str
    contact: Json
    other_ids: tuple[Json, ...]
    conversations: tuple[Json, ...]


@dataclass(frozen=True, slots=True)
class InboundMessage:
    """One message as WhatsApp delivered it. `text` is what the model may read of it, `None` if there is nothing."""

    wa_message_id: str
    type: str
    text: str | None
    timestamp: datetime
    payload: Json


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message, either direction. `outbound_key` is what we send as `biz_opaque_callback_data`."""

    id: str
    conversation_id: str
    direction: Direction
    author: Author
    type: str
    text: str | None
    status: Status
    timestamp: datetime
    wa_message_id: str | None = None
    outbound_key: str | None = None
    error: Json | None = None
    payload: Json | None = None
    edited_at: datetime | None = None
    """When its author last changed it; `text` is what it says since."""
    edits: tuple[Json, ...] = ()
    """The changes, each with the words it replaced (`text`); the first and the last ones of many."""
    sent_by: str | None = None
    """The user who wrote it through the API; `None`: the bot, the WhatsApp Business app, the customer, or not known."""


class ReplyState(StrEnum):
    """`pending`: may still be generated and sent · `sending`: committed before the POST, outcome unknown ·
    `sent`, `failed`, `silenced`: finished."""

    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    FAILED = "failed"
    SILENCED = "silenced"


@dataclass(frozen=True, slots=True)
class Recipient:
    """Whom to send to: `wa_id` as digits without the plus sign, or the business-scoped `user_id`."""

    wa_id: str | None
    user_id: str | None


@dataclass(frozen=True, slots=True)
class Reply:
    """The one answer to a run of inbound messages, however often and by however many workers it is tried.

    `key` is the id of the first message it answers (stable over retries); `covers` counts the messages it
    answers; `part` is the index of the next part to send when the body is longer than one message.
    """

    key: str
    conversation_id: str
    author: Author
    covers: tuple[str, ...]
    fence: int
    state: ReplyState
    body: str | None
    part: int
    sending_since: datetime | None = None
    """When the attempt whose outcome is unknown was committed; set while `state` is `sending`."""
    attempt: str | None = field(default=None, compare=False)
    """The last one that was committed."""
    wamid: str | None = None
    error: Json | None = None
    to: Recipient = field(default=Recipient(None, None), compare=False)
    """The customer's ids when the reply was opened or its body saved: they may change while it is made."""
    sent_by: str | None = None
    """The user who wrote it through the API."""
    usage_change: UsageChange | None = field(default=None, compare=False)
    """Set by the call that counted what the answer cost."""
    media_id: str | None = None
    """The file that goes out with it, a person's."""
    elsewhere: tuple[str, ...] = field(default=(), compare=False)
    """Set by the call that opened it: of the messages it was to cover, those that other replies cover."""


@dataclass(frozen=True, slots=True)
class CallerRights:
    """What the database's user may do. A replica's is a member of service_role and nothing more."""

    name: str
    superuser: bool
    bypasses: bool
    """Row-level security does not hold for it."""
    creates_roles: bool
    creates_databases: bool
    owns: bool
    """Our tables."""
    creates_in: tuple[str, ...]
    """Schemas, and the database."""

    @property
    def excess(self) -> tuple[str, ...]:
        """In words, what a replica does not need."""
        found = {
            "is a superuser": self.superuser, "bypasses row-level security": self.bypasses,
            "may create roles": self.creates_roles, "may create databases": self.creates_databases,
            "owns the tables": self.owns, f"may create in {', '.join(self.creates_in)}": bool(self.creates_in),
        }  # fmt: skip
        return tuple(words for words, is_so in found.items() if is_so)


@dataclass(frozen=True, slots=True)
class Edit:
    """A message that changed an earlier one, which is stored with the new words."""

    wa_message_id: str
    original_id: str
    before: str | None
    """The words it replaced."""


@dataclass(frozen=True, slots=True)
class Inbound:
    """What storing a run of inbound messages found out: the conversation after it, and the ids that were new."""

    conversation: Conversation
    new_ids: frozenset[str]
    edits: tuple[Edit, ...] = ()
    """Those of the run that changed a message. An edit of an unknown message is a message like any other."""
    superseded_ids: frozenset[str] = frozenset()
    """Messages of the run that came after their own edit, which stands in their place."""
    edited: Mapping[str, str | None] = field(default_factory=dict)
    """The present words of those messages of the run that were edited, by id."""
    opened: OpenedAnswer | None = None
    """The bot's reply to the run, if it was to be opened and is new."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file as the model gets it. `content` is base64, made once; `size`: of the file itself, in bytes."""

    mime: str
    content: bytes = field(repr=False)
    size: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One side's words in the history: `role` is `user` or `model`, as Gemini names them."""

    role: str
    text: str
    parts: tuple[str | Attachment, ...] = ()
    """The same words with the files between them, in their order; empty where there is no file."""

    @property
    def files(self) -> tuple[Attachment, ...]:
        return tuple(part for part in self.parts if isinstance(part, Attachment))


@dataclass(frozen=True, slots=True)
class Background:
    """What is known before an answer is made: the history, and what was spent today."""

    turns: tuple[Turn, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Opening:
    """How the bot's reply to a run is opened: see `ConversationStore.open_answer`."""

    fence: int
    limit: int
    characters: int
    minutes: int


@dataclass(frozen=True, slots=True)
class OpenedAnswer:
    """The bot's reply as it was found or inserted, and what is known before its answer is made."""

    reply: Reply
    background: Background
    """Without the messages that the reply is to cover."""
    recent_replies: int
    """Of the bot, that went out of late."""


@dataclass(frozen=True, slots=True)
class Function:
    """Something the model may ask for in its answer. `parameters`: a schema as of OpenAPI."""

    name: str
    description: str
    parameters: Json


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """The model asked for the function of this name. Nothing is certain about the arguments."""

    name: str
    arguments: Json


@dataclass(frozen=True, slots=True)
class Prompt:
    """Everything the model gets. `turns` starts and ends with `user`, roles alternate."""

    system: str
    turns: tuple[Turn, ...]
    model: str | None = None
    temperature: float | None = None
    max_output_tokens: int | None = None
    functions: tuple[Function, ...] = ()
    """What the answer may ask for beside its text, or instead of it; a model that knows no functions gets none."""

    @property
    def files(self) -> tuple[Attachment, ...]:
        """Of the last turn: the only one that has any."""
        return self.turns[-1].files if self.turns else ()


@dataclass(frozen=True, slots=True)
class Generation:
    """The model's answer. `truncated`: it hit its token limit and the text is a part. `text` is blank only if there are
    `calls`, which are of functions of the prompt."""

    text: str
    model: str
    truncated: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None
    calls: tuple[FunctionCall, ...] = ()
    contents: Mapping[int, str] = field(default_factory=dict)
    """What the files of the last turn say or show, by their numbers, from 1."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What an API key may do: what a member with this role in this account may, and nothing elsewhere."""

    account_id: str
    role: Role


@dataclass(frozen=True, slots=True)
class User:
    """Who asks: a signed-in person (Supabase `sub`), an API key (`key:<id>`, with its `grant`), or the operator, who
    may do everything. `is_anonymous`: signed in without an e-mail address, phone or other identity (Supabase's
    anonymous sign-in)."""

    id: str
    is_operator: bool = False
    is_anonymous: bool = False
    grant: Grant | None = None
    email: str | None = field(default=None, compare=False)
    expires_at: datetime | None = field(default=None, compare=False)
    """When what they showed ends to be good."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """What the identity provider gives a person who signed in. The access token is good for `seconds`; the refresh
    token gets the next one, once."""

    access_token: str
    refresh_token: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Member:
    """A person who may act for an account."""

    user_id: str
    role: Role
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A page of a listing; `next_cursor` is opaque and `None` on the last page."""

    items: tuple[T, ...]
    next_cursor: str | None = None
