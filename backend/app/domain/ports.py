"""What the services need of the outside world. Each port has one conformance suite in `tests/contract/`.

Every method may raise `Unavailable`; what else it raises is said where it is declared.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import date, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from app.core.deadline import Deadline
from app.core.event import Event
from app.domain.media import Announced, Media, OutgoingFile
from app.domain.models import (
    EVERY_CONVERSATION,
    Account,
    Author,
    Background,
    BlockedAccounts,
    BlockReason,
    BotProfile,
    CallerRights,
    ContactExport,
    ContactTraces,
    Conversation,
    ConversationCounts,
    ConversationFilter,
    DatabaseHistory,
    Fallback,
    Generation,
    Handover,
    HandoverNotice,
    HandoverReason,
    Inbound,
    InboundMessage,
    InboxState,
    Invalidation,
    Json,
    Member,
    Message,
    NoticeOutcome,
    OpenedAnswer,
    Opening,
    Page,
    Prompt,
    Recipient,
    Refusal,
    Reply,
    Role,
    SignedIn,
    Status,
    TableSecurity,
    Turn,
    Unanswered,
    User,
    Waiting,
)
from app.domain.usage import AccountDay, Spent

if TYPE_CHECKING:  # what no other part of the vocabulary needs takes a third of the time that it takes to import it
    from app.domain.account_health import AccountHealth, HealthRound, Inspection, Judgement, Recorded
    from app.domain.api_keys import ApiKey
    from app.domain.audit import AuditEntry
    from app.domain.endpoints import (
        Answer,
        Delivery,
        Endpoint,
        FailingEndpoint,
        Load,
        Loaded,
        OutboxEvent,
        OutboxPage,
        Settled,
        Settlement,
        Waybill,
    )
    from app.domain.invitations import Invitation, Membership
    from app.domain.media import Announced, Media

T = TypeVar("T")
Pieces = Callable[[], AsyncIterator[bytes]]
"""A file from its start, as often as it is called."""


class Model(Protocol):
    async def generate(self, prompt: Prompt, *, deadline: Deadline) -> Generation:
        """One answer within `deadline`. Raises `ModelRefused` when asking again is useless."""
        ...

    def blocked_seconds(self, profile: BotProfile) -> float:
        """For how long `generate` with this profile's model would certainly fail without asking it; 0 if it is worth a
        try. No I/O."""
        ...

    def away_seconds(self, profile: BotProfile) -> float:
        """As `blocked_seconds`, or as long as the model itself said, if that is longer. It is asked again sooner, but a
        customer who cannot wait for so long is told at once."""
        ...

    def blocked_reason(self, profile: BotProfile) -> str:
        """Why, in words, while `blocked_seconds` is not 0."""
        ...


class Messenger(Protocol):
    async def send_text(
        self,
        account: Account,
        to: Recipient,
        text: str,
        *,
        outbound_key: str,
        ensure_held: Callable[[], None] = lambda: None,
    ) -> str:
        """Send at most `TEXT_LIMIT` characters; returns the wamid. Raises a `SendError`, or `Unavailable` when
        the message certainly did not go out. `ensure_held` is called before every attempt; what it raises ends them."""
        ...

    async def upload_file(self, account: Account, *, name: str, mime: str, size: int, pieces: Pieces) -> str:
        """Give WhatsApp a file of `size` bytes; returns its id for `OutgoingFile`. `pieces` is called for every
        attempt. Raises a `SendError`, or `Unavailable`."""
        ...

    async def send_file(
        self,
        account: Account,
        to: Recipient,
        file: OutgoingFile,
        *,
        outbound_key: str,
        ensure_held: Callable[[], None] = lambda: None,
    ) -> str:
        """As `send_text`."""
        ...

    async def mark_read(self, account: Account, wa_message_id: str, *, typing: bool) -> None:
        """Blue ticks, and "typing…" for at most 25 s if `typing`. A courtesy: one try that touches neither the
        circuits nor the retries, and does not wait for a place of a send; callers ignore its failures."""
        ...

    async def confirm_number(self, phone_number_id: str, access_token: str) -> None:
        """Ask WhatsApp if this token (not encrypted) opens this number. Raises `InvalidInput` with the reason if not,
        `Unavailable` if WhatsApp gives no answer within 5 s."""
        ...

    def blocked_seconds(self, account: Account) -> float:
        """For how long a send for `account` would certainly fail without asking anybody; 0 if it is worth a try."""
        ...

    def blocked_reason(self, account: Account) -> str:
        """Why, in words, while `blocked_seconds` is not 0."""
        ...


class Offered(NamedTuple):
    """A file that WhatsApp is about to hand over. What it does not say is `None`."""

    mime: str | None
    sha256: str | None
    """Hexadecimal."""
    size: int | None
    pieces: AsyncIterator[bytes]


class MediaSource(Protocol):
    async def fetch_media(
        self, account: Account, source_id: str, *, max_bytes: int, take: Callable[[Offered], Awaitable[T]]
    ) -> T:
        """What `take` makes of the file; it is called again, with the file from its start, if the file is cut off.
        Raises `MediaTooLarge`, `MediaGone`, another `SendError`, or `Unavailable`; and what `take` raises."""
        ...

    def media_blocked_seconds(self) -> float:
        """For how long a fetch would certainly fail without asking; 0 if it is worth a try."""
        ...


class RecordingLength(Protocol):
    def __call__(self, content: bytes, mime: str, *, most: float) -> float | None:
        """Seconds, or `None` if it does not tell. More than `most` may be any number above it. No I/O; up to a second
        of work."""
        ...


class MediaStore(Protocol):
    """Where the bytes of files are, by the ids of their rows."""

    async def put(self, media_id: str, pieces: AsyncIterator[bytes], *, mime: str) -> None:
        """Whole when this returns; a file of the same id is replaced. What `pieces` raises comes through, and leaves
        nothing that `size` takes for the whole."""
        ...

    async def size(self, media_id: str) -> int | None:
        """How many bytes are there, perhaps of a file that was cut off. `None`: none."""
        ...

    def read(self, media_id: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The bytes from `start` up to, not with, `end`, in pieces whose lengths, but for the first and the last one,
        are multiples of 3. Raises `NotFound("media")`."""
        ...

    async def delete(self, media_ids: Sequence[str]) -> None:
        """What is gone already does not matter."""
        ...


class Inspector(Protocol):
    async def inspect(self, account: Account) -> Inspection:
        """What Meta says of the account's token, number and webhook subscription, within 15 s, past the circuits: it is
        how one finds out. Raises nothing: what could not be asked is so marked."""
        ...


class TokenVerifier(Protocol):
    async def verify(self, token: str) -> User:
        """The user behind an access token. Raises `Unauthenticated`."""
        ...


class IdentityProvider(Protocol):
    """Where people have their passwords and mailboxes. Every call raises `Unavailable`, and `RateLimited` when the
    provider is asked too often."""

    async def with_password(self, email: str, password: str) -> SignedIn:
        """Raises `Unauthenticated`: no such person, another password, or not allowed to sign in."""
        ...

    async def refresh(self, refresh_token: str) -> SignedIn:
        """Raises `Unauthenticated`: the person was signed out, banned or deleted."""
        ...

    async def send_link(self, email: str, *, back_to: str | None) -> None:
        """A mail with a link that signs in, if there is such a person; nothing tells whether there is. `back_to`: the
        page that the link leads to, which the provider must know."""
        ...


class AccountStore(Protocol):
    async def create_account(
        self,
        *,
        name: str,
        slug: str,
        phone_number_id: str,
        access_token: str,
        verify_token: str,
        phone_number: str | None = None,
        bot_auto_on: bool = True,
        owner_id: str | None = None,
        app_id: str | None = None,
    ) -> Account:
        """`access_token` is ciphertext. Raises `Conflict` (`slug_taken`, `phone_number_id_taken`)."""
        ...

    async def update_account(self, account_id: str, changes: Mapping[str, object]) -> Account:
        """Raises `NotFound("account")`, `Conflict`."""
        ...

    async def replace_access_token(self, account_id: str, *, expected: str, access_token: str) -> bool:
        """Both ciphertexts. `False` and nothing written if the stored one is not `expected` any more.
        Raises `NotFound("account")`."""
        ...

    async def account_refused(
        self, account_id: str, *, access_token: str, reason: BlockReason, confirm: int
    ) -> Refusal:
        """WhatsApp refused a send because of the account: `confirm` times in a row, and it is blocked. `access_token`
        is the ciphertext that was in use; a refusal of another one counts for nothing. Raises `NotFound("account")`."""
        ...

    async def account_accepted(self, account_id: str, *, access_token: str) -> bool:
        """A send was accepted: refusals are forgotten. `True` if the account was blocked."""
        ...

    async def blocked_accounts(self, *, limit: int) -> BlockedAccounts:
        """All reasons are counted, at most `limit` accounts are named, the longest blocked first."""
        ...

    async def account_notice(
        self,
        *,
        phone_number_id: str | None,
        phone_number: str | None,
        notice: Mapping[str, object],
        block: BlockReason | None,
        ends_block: bool,
        confirm: int,
    ) -> tuple[str, ...]:
        """Keep Meta's report with every account of that number, and block it or end its block. Returns their ids; a
        report older than the one that is kept changes nothing."""
        ...

    async def template_notice(self, *, waba_id: str, template: Mapping[str, object]) -> tuple[str, ...]:
        """Tell the endpoints of every account of that WhatsApp Business account `template.updated`. Returns the
        accounts' ids: those whose health was checked, which is how we know where they belong."""
        ...

    async def account_health_round(self, *, limit: int, every_seconds: float, again_seconds: float) -> HealthRound:
        """Active accounts that were never checked, that changed since, whose check is older than `every_seconds`, or
        than `again_seconds` where it could not be made; at most `limit`."""
        ...

    async def account_health(self, account_id: str) -> AccountHealth:
        """Empty for an account that was not checked yet."""
        ...

    async def record_account_health(
        self, account_id: str, judgement: Judgement, *, access_token: str, updated_at: datetime, confirm: int
    ) -> Recorded:
        """Keep what a check found, and block the account or end a block that a check began, in one step.
        `access_token`: the ciphertext that was in use. `updated_at`: the account's when Meta was asked; if it changed
        since it is due again. `confirm`: the refusals in a row that make a block. Raises `NotFound("account")`."""
        ...

    async def get_account(self, account_id: str) -> Account | None: ...

    async def get_account_by_phone_number_id(self, phone_number_id: str) -> Account | None: ...

    async def get_account_by_verify_token(self, verify_token: str) -> Account | None: ...

    async def list_accounts(self, *, user_id: str | None) -> tuple[Account, ...]:
        """Those `user_id` is a member of, or all for `None`; by name."""
        ...

    async def add_member(self, account_id: str, user_id: str, role: Role, *, keep_owner: bool = False) -> Member:
        """Make `user_id` a member, or change the role. Raises `NotFound("account")`, and `Conflict("last_owner")` if
        the account would lose its last owner and `keep_owner` is set."""
        ...

    async def remove_member(self, account_id: str, user_id: str, *, keep_owner: bool = False) -> None:
        """A person who is no member stays none. Raises `Conflict("last_owner")` as `add_member` does."""
        ...

    async def list_members(self, account_id: str) -> tuple[Member, ...]:
        """Owners first, then agents, then viewers; the oldest first. At most 1,000."""
        ...

    async def get_member(self, account_id: str, user_id: str) -> Member | None: ...

    async def get_role(self, account_id: str, user_id: str) -> Role | None: ...

    async def get_profile(self, account_id: str) -> BotProfile | None:
        """`None` only if the account does not exist; a fresh account has an empty profile."""
        ...

    async def update_profile(self, account_id: str, changes: Mapping[str, object]) -> BotProfile:
        """Raises `NotFound("account")`."""
        ...

    async def account_usage(self, account_ids: Sequence[str], *, since: date | None = None) -> tuple[AccountDay, ...]:
        """The newest day first, from `since` (UTC) or today on; a day without an answer is left out."""
        ...

    async def count_tokens(self, account_id: str, *, input_tokens: int, output_tokens: int) -> None:
        """Add tokens to today's that answered no customer. Repeated they count again."""
        ...

    async def tell_budget(self, account_id: str, notice: Mapping[str, object]) -> bool:
        """The account's budget of today is used up: keep `notice` as its last one, once a day. `True` if this call was
        the first."""
        ...


class ApiKeyStore(Protocol):
    """Keys with which programs act for an account."""

    async def create_api_key(
        self, account_id: str, *, name: str, role: Role, digest: str, hint: str, created_by: str, by_owner: bool,
        most: int,
    ) -> ApiKey:  # fmt: skip
        """`digest`: of the key, which itself is not stored. Raises `NotFound("account")`, also if `by_owner` and
        `created_by` is no owner (any more), and `Conflict("too_many_api_keys")` when the account has `most`."""
        ...

    async def list_api_keys(self, account_id: str) -> tuple[ApiKey, ...]:
        """The oldest first."""
        ...

    async def get_api_key(self, account_id: str, api_key_id: str) -> ApiKey | None: ...

    async def get_api_key_by_digest(self, digest: str) -> ApiKey | None: ...

    async def delete_api_key(self, account_id: str, api_key_id: str) -> None:
        """One that is gone is deleted already."""
        ...

    async def api_keys_used(self, ids: Sequence[str]) -> None:
        """Note that they were used just now."""
        ...


class InvitationStore(Protocol):
    """Links that make a person a member of an account."""

    async def create_invitation(
        self, account_id: str, *, role: Role, digest: str, created_by: str, by_owner: bool, valid_seconds: float,
        most: int,
    ) -> Invitation:  # fmt: skip
        """`digest`: of its token. Raises `NotFound("account")`, also if `by_owner` and `created_by` is no owner (any
        more), and `Conflict("too_many_invitations")` when the account has `most` that were not accepted."""
        ...

    async def list_invitations(self, account_id: str) -> tuple[Invitation, ...]:
        """Those that have not expired, the newest first; at most 200. When an owner, or a key, is one no more, what
        they left open goes."""
        ...

    async def get_invitation(self, account_id: str, invitation_id: str) -> Invitation | None: ...

    async def delete_invitation(self, account_id: str, invitation_id: str) -> None:
        """One that is gone is deleted already."""
        ...

    async def accept_invitation(self, digest: str, user_id: str) -> Membership:
        """`user_id` is a member from now on, and keeps a higher role. A repetition by the same person changes nothing.
        Raises `NotFound("invitation")`, `Conflict` (`invitation_used`, `invitation_expired`)."""
        ...


class AuditStore(Protocol):
    """Who changed what. The store writes an entry with every change of an account, its members, keys, invitations,
    webhooks or profile, in the same transaction, by the `ACTOR` of the task that asks for the change."""

    async def note_change(
        self, action: str, subject: str, changes: Json, *, phone_number_id: str | None = None
    ) -> None:
        """An entry about what the store does not keep. `phone_number_id`: of the account that it is about."""
        ...

    async def list_audit(self, account_id: str | None, *, limit: int, cursor: str | None) -> Page[AuditEntry]:
        """The newest first; `None` for all accounts. Raises `InvalidInput(field="cursor")`."""
        ...

    async def forget_audit(self, *, keep_seconds: float, limit: int) -> int:
        """Delete entries that are older, at most `limit`. Returns how many went."""
        ...


class SendDecision(StrEnum):
    """What `begin_part` decided, atomically with what it wrote."""

    SEND = "send"
    """`sending` is committed; the POST may go out now."""
    SENT = "sent"
    """That part, or the whole reply, went out before."""
    AMBIGUOUS = "ambiguous"
    """An earlier attempt is still `sending`: its outcome is unknown."""
    SILENCED = "silenced"
    """A person took the conversation over, or the bot is off; the reply is void."""
    WINDOW_CLOSED = "window_closed"
    """More than 24 h since the customer's last message; the reply failed with that error."""
    FAILED = "failed"
    """The reply failed for good before."""


class ConversationStore(Protocol):
    async def record_inbound(
        self,
        account_id: str,
        *,
        wa_id: str | None,
        user_id: str | None,
        name: str | None,
        messages: Sequence[InboundMessage],
        other_wa_id: str | None = None,
        opening: Opening | None = None,
    ) -> Inbound:
        """Store a run of messages of one contact, once each however often it is called: contact and conversation
        are created or updated, `unread_count` grows by the new ones, `last_inbound_at` never goes back.
        System notes (`type` system) are stored, but are neither unread nor do they open the 24-hour window; one that
        reports a new number or user id moves the contact, once. `other_wa_id`: another number of the same person.
        What was written in a group goes to the group's conversation. An edit changes the message it names.
        With `opening`, the bot's reply to all of the messages is opened in the same call, as by `open_answer`, if the
        bot answers there, nothing was edited and the reply is certainly new; else `opened` is None.
        Raises `Erased` if one of the messages was erased: nothing is stored."""
        ...

    async def record_echo(
        self, account_id: str, *, wa_id: str | None, user_id: str | None, message: InboundMessage
    ) -> Conversation:
        """A person answered from the WhatsApp Business app: store it as outbound by a human, turn the bot off, there
        or, for what was written in a group, in the group's conversation."""
        ...

    async def apply_status(
        self,
        account_id: str,
        *,
        wa_message_id: str,
        outbound_key: str | None,
        status: Status,
        timestamp: datetime,
        error: Json | None,
    ) -> bool:
        """Move the message up in rank (never down); finish a reply found `sending`. Of a text to a profile's number:
        see `end_notice`. `False`: no such message yet; the status is kept and applied when the message is stored."""
        ...

    async def get_conversation(self, conversation_id: str) -> Conversation | None: ...

    async def list_conversations(
        self, account_id: str, *, limit: int, cursor: str | None, only: ConversationFilter = EVERY_CONVERSATION
    ) -> Page[Conversation]:
        """Most recently active first. What was written a moment ago may not be found by its words yet: see
        `index_search`. Raises `InvalidInput(field="cursor")`."""
        ...

    async def count_conversations(self, account_id: str, *, most: int) -> ConversationCounts:
        """How many there are in each list, counted up to `most`."""
        ...

    async def index_search(self, *, rows: int, messages: int) -> int:
        """Make findable what was written since: at most so many pending rows, and about so many messages. Returns how
        many rows are done; 0 while another call works."""
        ...

    async def list_messages(self, conversation_id: str, *, limit: int, cursor: str | None) -> Page[Message]:
        """Newest first. Raises `InvalidInput(field="cursor")`."""
        ...

    async def history(self, conversation_id: str, *, limit: int, exclude: Sequence[str]) -> tuple[Turn, ...]:
        """The last `limit` messages that carry text, oldest first; failed and unsent ones and the wamids in `exclude`
        left out, and so are the fallback texts and the messages whose answer was refused; roles not merged."""
        ...

    async def background(
        self, conversation_id: str, *, limit: int, exclude: Sequence[str], characters: int
    ) -> Background:
        """`history` with at most the first `characters` of each message, and what conversation and account have spent
        today: one call."""
        ...

    async def set_bot(self, conversation_id: str, *, enabled: bool) -> Conversation:
        """Enabling also clears `needs_human` and ends a pause. Raises `NotFound("conversation")`."""
        ...

    async def set_needs_human(self, conversation_id: str, reason: HandoverReason) -> None:
        """Call a person. The first reason stays until the flag is cleared; an unknown conversation is ignored."""
        ...

    async def opt_out(self, conversation_id: str) -> None:
        """The customer wants no automatic answers: the bot is off, until `opt_in` or `set_bot`. An unknown conversation
        is ignored."""
        ...

    async def opt_in(self, conversation_id: str) -> Conversation:
        """They want them again: the bot is on if it was on before and no person has written since. Raises
        `NotFound("conversation")`."""
        ...

    async def mark_read(self, conversation_id: str) -> Conversation:
        """Unread count to zero. Raises `NotFound("conversation")`."""
        ...

    async def take_notices(self, *, limit: int, lost_after_seconds: float) -> tuple[HandoverNotice, ...]:
        """The texts that are due to the numbers of profiles, one for each call of a person; those without an `outcome`
        are this caller's to send, once. One that a caller took `lost_after_seconds` ago is over."""
        ...

    async def end_notice(
        self, notice_id: str, outcome: NoticeOutcome, *, wamid: str | None = None, error: Json | None = None
    ) -> None:
        """The conversation shows it, as long as its flag is up. `wamid`: of the text that went out; a status that says
        it failed, before or after this call, turns what is shown into `FAILED`. `error`: as of a message."""
        ...

    async def put_off_notice(self, notice_id: str, *, seconds: float) -> None:
        """It certainly did not go out, and is due again after so long."""
        ...


class ReplyStore(Protocol):
    async def open_reply(
        self,
        conversation_id: str,
        *,
        key: str,
        author: Author,
        covers: Sequence[str],
        fence: int,
        body: str | None = None,
        sent_by: str | None = None,
    ) -> Reply:
        """Insert-or-find: by `key`, else the conversation's reply whose `covers` contain it (a retry may see fewer
        messages than the reply answers). A found one keeps its body, covers and state, and takes the higher fence; one
        without a body that covers more than `covers` gives way to a new one. No two replies cover the same message:
        those of `covers` that others cover are left out, and named by `Reply.elsewhere`.
        `sent_by`: the user who wrote it; the first one stays.
        For `author=human` the bot of the conversation is turned off in the same step.
        `key` is unique in the account; the returned reply's key, which every later call uses, is unique in the store.
        The id of a conversation that became part of another one leads to that one.
        Raises `Fenced` if a higher fence than ours wrote before; `fence=0` is no claim: it only finds or inserts.
        Raises `NotFound("conversation")`, `Conflict` (`reply_key_taken`: by another conversation)."""
        ...

    async def open_answer(
        self,
        conversation_id: str,
        *,
        key: str,
        covers: Sequence[str],
        fence: int,
        limit: int,
        characters: int,
        minutes: int,
    ) -> OpenedAnswer:
        """`open_reply` of the bot, `background` without what it covers, and how many replies of the bot went out in the
        last so many minutes, since it was last turned on, at most 1000: one call. The messages of people and replies
        under way are not counted. Raises as `open_reply`."""
        ...

    async def save_body(
        self,
        key: str,
        *,
        fence: int,
        covers: Sequence[str],
        body: str,
        spent: Spent | None = None,
        handover: Handover | None = None,
    ) -> Reply:
        """Raises `Fenced`, `Conflict` (`covered_elsewhere`: another reply covers some of `covers` by now). Only a
        `pending` reply without a sent part changes; returns it as it is now. What was `spent` is counted in the
        same step, once for its id, whether or not the body is taken. `handover`: the person who is called in the same
        step, if the body is taken and no person has the conversation. During a pause only this reply may go out."""
        ...

    async def save_and_begin(
        self,
        key: str,
        *,
        fence: int,
        covers: Sequence[str],
        body: str,
        spent: Spent | None,
        parts: int,
        text: str,
        attempt: str,
        handover: Handover | None = None,
    ) -> tuple[Reply, SendDecision | None]:
        """`save_body`, and `begin_part` of the first of `parts` in the same transaction. `None`: the reply has another
        body, which stays, and nothing is begun. Raises as both."""
        ...

    async def save_fallback(
        self,
        key: str,
        *,
        fence: int,
        covers: Sequence[str],
        body: str,
        fallback: Fallback,
        spent: Spent | None = None,
        handover: Handover | None = None,
    ) -> Reply:
        """`save_body` for the fallback text, once per silence: if the last that went out in the conversation, at most
        24 h ago, was a fallback text too, the reply is `silenced`. Raises as `save_body`. `spent`: what was asked in
        vain. `handover`: also for a reply that is silenced."""
        ...

    async def open_file_reply(
        self, conversation_id: str, *, key: str, body: str, media_id: str, sent_by: str
    ) -> tuple[Reply, Media | None]:
        """`open_reply` of a person, not fenced, with the file `media_id`, in one step: the reply, and the file that it
        has, which is another one if the reply was there before."""
        ...

    async def begin_part(
        self,
        key: str,
        *,
        fence: int,
        part: int,
        parts: int,
        text: str,
        resend: bool = False,
        attempt: str | None = None,
    ) -> SendDecision:
        """Decide about part `part` (from 0) of `parts`, and on `SEND` commit `sending` and the outbound message
        `<key>#<part>`. Bot replies are silenced when the conversation's bot is off or pauses. `resend=True`: an
        ambiguous part may go out again. `attempt`: a UUID of the caller's try, which the reply then shows. Raises
        `Fenced`."""
        ...

    async def refuse_part(
        self, key: str, *, fence: int, part: int, parts: int, text: str, attempt: str, error: Mapping[str, object]
    ) -> SendDecision:
        """`begin_part` and `fail_part` for good in one: nothing goes out, and the message shows why. `SEND` or
        `AMBIGUOUS` failed now; after any other decision nothing has changed. Raises `Fenced`."""
        ...

    async def complete_part(self, key: str, *, part: int, wamid: str, last: bool) -> None:
        """Record what WhatsApp accepted. Not fenced: it is a fact, from any worker. Idempotent."""
        ...

    async def fail_part(self, key: str, *, fence: int, part: int, error: Mapping[str, object], final: bool) -> None:
        """The send certainly did not go out. `final`: the reply and its message are `failed`; otherwise back to
        `pending`. Raises `Fenced`."""
        ...


class OpenedMedia(NamedTuple):
    """`quoted`: the texts of messages that were asked for, by WhatsApp's ids."""

    files: tuple[Media, ...]
    quoted: Mapping[str, str]


class MediaRecordStore(Protocol):
    """What is known of files, and the pieces of those that the database itself keeps."""

    async def open_media(self, account_id: str, files: Sequence[Announced], *, quoted: Sequence[str]) -> OpenedMedia:
        """The rows of these files of stored messages, made where there is none; each with its `wa_message_id`, in no
        order. Each that is still pending counts one more fetch."""
        ...

    async def create_media(self, media_id: str, *, account_id: str, kind: str, mime: str, name: str | None) -> Media:
        """A person's file, which belongs to no reply yet."""
        ...

    async def settle_media(
        self, media_id: str, state: str, *, sha256: str | None = None, size: int | None = None, mime: str | None = None
    ) -> bool:
        """What became of its fetch, once: the first word stands. False: it is not this one, or there is no such file,
        its message was erased. One that is not kept becomes a leftover: some of its bytes may be there."""
        ...

    async def describe_media(self, files: Sequence[tuple[str, str, str]]) -> None:
        """(id, description, text) of each: the text becomes its message's, unless that was edited."""
        ...

    async def get_media(self, message_id: str) -> Media | None:
        """The file of a message, with its `conversation_id`."""
        ...

    async def media_of(self, message_ids: Sequence[str]) -> Mapping[str, Media]:
        """By the message's id, of those that have one."""
        ...

    async def media_to_send(self, media_id: str) -> Media | None: ...

    async def expire_media(self, *, keep_seconds: float, loose_seconds: float, limit: int) -> int:
        """Mark files older than `keep_seconds` as deleted, those that were never settled as failed, and forget those of
        people that belong to no reply after `loose_seconds`. Their ids become leftovers. Returns how many, at most
        `limit` of each."""
        ...

    async def media_leftovers(self, *, limit: int) -> tuple[str, ...]:
        """Ids of files to delete where they are kept, now: expired, never kept, or of messages that are gone."""
        ...

    async def settle_leftovers(self, media_ids: Sequence[str]) -> None:
        """They are deleted. They are leftovers again after 1, 2, 4, … minutes, for more than a day: an upload may end
        after its row went, and its worker with it."""
        ...

    async def put_media_chunk(self, media_id: str, position: int, content: bytes) -> bool:
        """The chunks from `position` on are replaced. `False`: the file is settled already, or unknown; nothing is
        written."""
        ...

    async def media_chunks_size(self, media_id: str) -> int | None: ...

    async def get_media_chunk(self, media_id: str, position: int) -> bytes | None: ...

    async def delete_media_chunks(self, media_ids: Sequence[str]) -> None: ...


class InboxStore(Protocol):
    """Where events wait, in order, while the queue is away."""

    async def inbox_put(
        self, events: Sequence[Event], *, max_rows: int, max_bytes: int, reopen: bool
    ) -> tuple[InboxState, int, tuple[Event, ...]]:
        """Append every event that is not there yet if the inbox is open, or `reopen` says to open it; otherwise store
        nothing. Returns the state it leaves, how many were new, and which were not stored because their account holds
        as many rows, or bytes of payload, as are free. Raises `Conflict("inbox_full")` and stores nothing if there
        would be more than `max_rows` or `max_bytes` of all accounts."""
        ...

    async def inbox_state(self) -> InboxState: ...

    async def inbox_close(self) -> InboxState:
        """Let nothing more in. Returns `closed` if nothing is left, else `closing`: move the rest, then call again."""
        ...

    async def inbox_peek(self, *, limit: int) -> list[tuple[int, Event]]:
        """The oldest rows with their ids. A row seen here has none before it that could still appear."""
        ...

    async def inbox_delete(self, rows: Sequence[int]) -> None: ...


class OverflowStore(Protocol):
    """Where events wait for which the queue has no room, until they are recorded."""

    async def overflow_put(
        self, events: Sequence[Event], *, max_rows: int, max_bytes: int
    ) -> tuple[int, tuple[Event, ...]]:
        """Append every event that is not there yet. Returns how many were new, and which were not stored because their
        account holds as many rows, or bytes of payload, as are free. Raises `Conflict("overflow_full")` and stores
        nothing if there would be more than about `max_rows` or `max_bytes` of all accounts."""
        ...

    async def overflow_peek(self, *, limit: int) -> list[tuple[int, Event]]:
        """The oldest rows with their ids."""
        ...

    async def overflow_delete(self, rows: Sequence[int]) -> None: ...


class WaitingStore(Protocol):
    """What waits for an answer, as the database knows it."""

    async def waiting_conversations(
        self, *, older_than_seconds: float, limit: int, after: Waiting | None
    ) -> tuple[Waiting, ...]:
        """The longest waiting first; `after` is the last one of the page before."""
        ...

    async def unanswered(self, conversation_ids: Sequence[str], *, fresh_seconds: float) -> tuple[Unanswered, ...]:
        """What waits in these conversations: at most 50 messages and 50 replies of each."""
        ...

    async def stop_waiting(self, conversations: Sequence[Waiting]) -> None:
        """Nothing waits there. Ignored for a conversation in which something has happened since it was read."""
        ...

    async def database_history(self) -> DatabaseHistory | None:
        """`None`: the database does not say."""
        ...


class JournalStore(Protocol):
    """What is accepted and not handled yet, in order, where the queue may forget."""

    async def journal_put(
        self, events: Sequence[Event], *, max_rows: int, max_bytes: int
    ) -> tuple[int, tuple[Event, ...]]:
        """Append every event that is not there yet. Returns how many were new, and which were not stored because their
        account holds as many rows, or bytes of payload, as are free. Raises `Conflict("journal_full")` and stores
        nothing if there would be more than `max_rows` or `max_bytes` of all accounts. Dead letters do not count."""
        ...

    async def journal_begin(self, *, life: str, keep_seconds: float) -> int:
        """Of the rows marked with another life forget the mark, and that they are dead letters; delete rows older than
        `keep_seconds`. Returns how many lost their mark."""
        ...

    async def journal_next(self, *, after: int, limit: int) -> list[tuple[int, Event]]:
        """The oldest unmarked rows behind the row `after`. None before one that is seen here can still appear."""
        ...

    async def journal_moved(self, rows: Sequence[int], *, life: str) -> None:
        """Mark them with `life`."""
        ...

    async def journal_bury(self, rows: Sequence[int], *, life: str, keep: int) -> None:
        """They are dead letters, unless another life has them by now. Of each account the newest `keep` stay."""
        ...

    async def journal_settle(self, rows: Sequence[int]) -> None:
        """Delete them. Those that are gone already do not matter."""
        ...


class InvalidationStore(Protocol):
    """What committed changes have made old in the caches, remembered with the commit itself, whatever made it."""

    async def pending_invalidations(self, *, limit: int) -> tuple[Invalidation, ...]:
        """The oldest first."""
        ...

    async def settle_invalidations(self, ids: Sequence[int]) -> None:
        """They have been carried out."""
        ...

    async def wait_for_invalidations(self, timeout_seconds: float) -> None:
        """Returns when there may be new ones: at once where the database notifies, else after `timeout_seconds`."""
        ...

    async def ignore_invalidations(self) -> None:
        """Stop listening until the next `wait_for_invalidations`: another replica does."""
        ...


class EndpointStore(Protocol):
    """Who wants to hear of an account's events, and how the deliveries went."""

    async def create_endpoint(
        self, account_id: str, *, url: str, events: Sequence[str], secret: str, most: int
    ) -> Endpoint:
        """`secret` is ciphertext. Raises `NotFound("account")`, and `Conflict("too_many_webhooks")` if the account has
        `most` already."""
        ...

    async def list_endpoints(self, account_id: str) -> tuple[Endpoint, ...]:
        """The oldest first."""
        ...

    async def get_endpoint(self, account_id: str, endpoint_id: str) -> Endpoint | None: ...

    async def update_endpoint(self, account_id: str, endpoint_id: str, changes: Mapping[str, object]) -> Endpoint:
        """`changes` of url, events, enabled, and secret with overlap_seconds, for which the one before still signs.
        Raises `NotFound("webhook")`."""
        ...

    async def delete_endpoint(self, account_id: str, endpoint_id: str) -> None:
        """One that is gone already stays gone."""
        ...

    async def list_deliveries(self, endpoint_id: str, *, limit: int) -> tuple[Delivery, ...]:
        """The newest first."""
        ...

    async def endpoint_secrets(self, *, after: str | None, limit: int) -> tuple[tuple[str, str], ...]:
        """Ids of endpoints and the ciphertexts of all secrets that sign, in the order of the ids; `limit` endpoints."""
        ...

    async def replace_endpoint_secret(self, endpoint_id: str, *, expected: str, secret: str) -> bool:
        """Both ciphertexts. `False` and nothing written if the stored one is not `expected` any more."""
        ...


class OutboxStore(Protocol):
    """Events that are to be told, written in the transaction of the change that each is about."""

    async def outbox_next(self, *, limit: int) -> OutboxPage:
        """The oldest events that are not in the queue yet. What no endpoint wants is deleted."""
        ...

    async def outbox_oldest_seconds(self) -> float:
        """Since the oldest event that is not in the queue yet; 0 if all are."""
        ...

    async def outbox_moved(self, ids: Sequence[str], *, life: str, held: Sequence[tuple[str, str]] = ()) -> None:
        """They are in the queue of that life, except for the pairs (event, endpoint) in `held`, which wait for room."""
        ...

    async def outbox_held(self, endpoint_id: str, *, limit: int) -> tuple[Waybill, ...]:
        """What waits for room in the queue for one endpoint, the oldest first."""
        ...

    async def outbox_unhold(self, endpoint_id: str, ids: Sequence[str]) -> None:
        """They are in the queue."""
        ...

    async def wait_for_events(self, timeout_seconds: float) -> None:
        """Returns when there may be new ones: at once where the database notifies, else after `timeout_seconds`."""
        ...

    async def ignore_events(self) -> None:
        """Stop listening until the next `wait_for_events`: another replica listens."""
        ...

    async def mute_events(self) -> bool:
        """Whether the database announces no events from now on, because the caller looks by itself: until
        `unmute_events`, `ignore_events`, or the end of the connection. `False` where it announces none anyway. To
        repeat it costs nothing."""
        ...

    async def unmute_events(self) -> None:
        """Look once more before waiting: something may have come unannounced."""
        ...

    async def failing_endpoints(self, *, limit: int) -> tuple[FailingEndpoint, ...]:
        """Endpoints that fail, or that failures have switched off; the longest first."""
        ...

    async def outbox_begin(self, *, life: str, keep_seconds: float, limit: int) -> tuple[int, int]:
        """What was moved into a queue of another life is to be moved again; delete rows older than `keep_seconds`. At
        most `limit` of each, the oldest first. Returns how many of each."""
        ...

    async def outbox_work(
        self, settlements: Sequence[Settlement], loads: Sequence[Load]
    ) -> tuple[tuple[Settled, ...], tuple[Loaded, ...]]:
        """All of it in one transaction, the settlements first; the answers in the order of what was asked."""
        ...


class PrivacyStore(Protocol):
    """What is stored about one customer: found, handed out, erased."""

    async def contact_traces(self, contact_id: str) -> ContactTraces | None:
        """`None`: there is no such contact, and there was none."""
        ...

    async def erase_contact(
        self, contact_id: str, *, message_ids: Sequence[str], mailboxes: Sequence[str], words: Sequence[str]
    ) -> Mapping[str, int]:
        """Everything. `message_ids`: those that the queue had, besides the stored ones; none of them is stored again in
        the next 8 days. `mailboxes` of the queue, and `words`, the person's numbers and ids, say what is theirs among
        events that wait in the database. Returns place -> rows; for a contact that was erased before what that call
        returned. Raises `NotFound("contact")`."""
        ...

    async def forget_messages(
        self, *, days: int, after: str | None, conversations: int, messages: int
    ) -> tuple[int, str | None]:
        """Of the next so many conversations delete what is older than `days` (0: nothing), at most about so many
        messages. Returns how many messages went, and where the next call goes on; `None`: this was the end."""
        ...

    async def export_contact(self, contact_id: str) -> ContactExport | None: ...

    async def export_messages(self, conversation_id: str, *, after_seq: int, limit: int) -> tuple[Json, ...]:
        """As stored, the oldest first, each with its `seq`."""
        ...


class Receiver(Protocol):
    async def deliver(self, url: str, event: OutboxEvent, *, secrets: Sequence[str]) -> Answer:
        """POST the event, signed with each of `secrets` (not encrypted), within 10 s. Raises nothing: every way it may
        go is an answer."""
        ...

    def problem_with(self, url: str) -> str | None:
        """Why no webhook may have this URL as far as it can be told without a look-up, in words; `None` if it may."""
        ...


class Store(
    AccountStore, ApiKeyStore, InvitationStore, AuditStore, ConversationStore, ReplyStore, InboxStore, JournalStore,
    OverflowStore, WaitingStore, InvalidationStore, EndpointStore, OutboxStore, MediaRecordStore, PrivacyStore,
    Protocol,
):  # fmt: skip
    """All of it, which one adapter implements."""

    async def ping(self) -> bool:
        """One round trip. `False`: it answers, and takes no writes. Raises `Unavailable`."""
        ...

    def trouble(self) -> str | None:
        """In words: what calls failed on a moment ago although the database answers (locks, connections, disk)."""
        ...

    def silent_seconds(self) -> float:
        """For how long calls have been under way without one that succeeded; 0 if none is."""
        ...

    async def probe(self) -> None:
        """As `ping`, but once and past the circuit: is the database back? Raises `Unavailable`, also if it takes no
        writes."""
        ...

    async def schema_version(self) -> str | None:
        """The newest migration applied, e.g. `20261123000001`; `None` if none was recorded."""
        ...

    async def caller_rights(self) -> CallerRights:
        """What the user that we connect as may do."""
        ...

    async def row_security(self) -> Mapping[str, TableSecurity]:
        """Every table beside ours too, by name."""
        ...

    async def applied_migrations(self) -> tuple[str, ...]:
        """Every migration of ours that is recorded, oldest first, e.g. `20261123000001_chorus_foundation`; none where
        the database has no schema, or one from before it could say."""
        ...

    async def database_identity(self) -> str:
        """Which database this is, `<id>@<cluster>/<database>`: the same for all its standbys and after a fail-over,
        another one for a copy."""
        ...

    async def aclose(self) -> None: ...


__all__ = [
    "AccountStore", "ConversationStore", "EndpointStore", "InboxStore", "InvalidationStore", "JournalStore",
    "MediaRecordStore", "MediaSource", "MediaStore", "Messenger", "Model", "Offered", "OpenedMedia", "OutboxStore",
    "OverflowStore", "Pieces", "PrivacyStore", "Receiver", "ReplyStore", "SendDecision", "Store", "TokenVerifier",
    "WaitingStore",
]  # fmt: skip
