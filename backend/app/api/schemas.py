"""What comes in and goes out over HTTP. Unknown fields are refused: a typing error must not look like success."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from app.core.secrets import STORED_TOKEN, clean_secret
from app.domain.audit import ActorKind
from app.domain.business_hours import MAX_EXCEPTIONS, MAX_RANGES, is_time_zone
from app.domain.endpoints import MAX_URL_CHARACTERS, EventType
from app.domain.handover import MAX_KEYWORD_CHARACTERS, MAX_KEYWORDS
from app.domain.identifiers import MEMBER_ID, PHONE_NUMBER_ID
from app.domain.media import MediaState
from app.domain.models import (
    MAX_MEDIA_BYTES,
    MAX_MEDIA_PAGES,
    MAX_MEDIA_SECONDS,
    MAX_OUTPUT_TOKENS,
    MEDIA_KINDS,
    Author,
    Direction,
    HandoverReason,
    NoticeOutcome,
    OnHandover,
    ReplyState,
    Role,
    Status,
)
from app.domain.opt_out import MAX_STOP_WORDS
from app.domain.phone import phone_digits
from app.domain.profile_limits import MAX_DEPTH, PROFILE_BYTES

# Patterns say what PostgreSQL's text cannot hold (NUL) and, where white space is cut off, that something must be left.
NO_NUL = r"^[^\x00]*$"
SOME_TEXT = r"^[^\x00]*[^\s\x00][^\x00]*$"


def _is_shallow(value: dict[str, object]) -> dict[str, object]:
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for each in level
            if isinstance(each, dict | list)
            for item in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return value
    raise ValueError(f"is nested more than {MAX_DEPTH} levels deep")


def _is_number(value: object) -> object:
    """pydantic reads "5" and true as whole numbers too; 5.0 is one in JSON."""
    if isinstance(value, bool | str):
        raise PydanticCustomError("int_type", "Input should be a whole number")
    return value


def _clean(value: object) -> object:
    return clean_secret(value, ascii_only=True) if isinstance(value, str) else value


NOT_TEXT = BeforeValidator(_is_number)
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=SOME_TEXT)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
PhoneNumberId = Annotated[str, StringConstraints(pattern=PHONE_NUMBER_ID)]
AppId = Annotated[str, StringConstraints(pattern=r"^[0-9]{5,20}$")]
"""Of a Meta app, as the app's dashboard shows it."""
PhoneNumber = Annotated[str, StringConstraints(pattern=r"^\+?[0-9]{6,20}$")]
Token = Annotated[str, StringConstraints(pattern=STORED_TOKEN), BeforeValidator(_clean)]
"""Visible ASCII: it travels in a header or a URL. White space outside is cut off; a comment or quotes are refused."""
AccessToken = Token
VerifyToken = Token
TokenBudget = Annotated[int, Field(ge=1, le=10**15), NOT_TEXT]
MediaKind = Literal["image", "sticker", "audio", "video", "document"]
LongText = Annotated[str, StringConstraints(max_length=PROFILE_BYTES, pattern=NO_NUL)]
ReplyText = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=SOME_TEXT)]
"""Sent to customers as it is; WhatsApp refuses a text without any."""
ReplyTextOrNone = Annotated[str, StringConstraints(max_length=4096, pattern=NO_NUL)]
"""A blank one is not sent."""
FreeForm = Annotated[
    dict[str, Any],
    AfterValidator(_is_shallow),
    Field(description=f"Any JSON, at most {MAX_DEPTH} levels deep."),
]


class LabelledField(BaseModel):
    """One of the custom fields in the order of a form. `id` is the form's own; a whole number beyond 64 bits would
    arrive as a floating-point number."""

    model_config = ConfigDict(extra="forbid")

    id: StrictStr | Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    label: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=SOME_TEXT)]
    value: Any


_Labelled = Annotated[list[LabelledField], Field(max_length=200)]
_LABELLED: TypeAdapter[list[LabelledField]] = TypeAdapter(_Labelled)


def _by_label(value: object) -> object:
    """A list of labelled fields as an object; those of one label become one with a list of their values."""
    if not isinstance(value, list):
        return value
    try:
        fields = _LABELLED.validate_python(value)
    except ValidationError:
        raise PydanticCustomError(
            "labelled_fields", "Input should be an object, or a list of at most 200 fields with id, label and value"
        ) from None
    values: dict[str, list[Any]] = {}
    for field in fields:
        values.setdefault(field.label, []).append(field.value)
    return {label: found[0] if len(found) == 1 else found for label, found in values.items()}


CustomFields = Annotated[FreeForm, BeforeValidator(_by_label, json_schema_input_type=dict[str, Any] | _Labelled)]
MemberId = Annotated[str, StringConstraints(pattern=MEMBER_ID)]


def may_be_absent() -> Any:
    """The default of a field that may be left out but not be null; the default itself is never used."""
    return Field(default_factory=lambda: None)


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class AccountIn(_In):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "Maison Levain",
                    "slug": "maison-levain",
                    "phone_number_id": "106540352242922",
                    "access_token": "EAAG-a-permanent-token",
                    "verify_token": "chosen-by-you-for-the-webhook-form",
                    "phone_number": "+33123456789",
                }
            ]
        }
    )

    name: Name
    slug: Slug
    phone_number_id: PhoneNumberId
    access_token: AccessToken
    verify_token: VerifyToken
    phone_number: PhoneNumber | None = None
    bot_auto_on: StrictBool = True
    app_id: AppId | None = None


class AccountChanges(_In):
    """Only what changes. `phone_number`, `app_id` and `daily_token_budget` may be null; the others may be left out but
    not be null."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Maison Levain Lyon", "bot_auto_on": False}]})

    name: Name = may_be_absent()
    slug: Slug = may_be_absent()
    access_token: AccessToken = may_be_absent()
    verify_token: VerifyToken = may_be_absent()
    phone_number: PhoneNumber | None = None
    is_active: StrictBool = may_be_absent()
    bot_auto_on: StrictBool = may_be_absent()
    app_id: AppId | None = None
    daily_token_budget: TokenBudget | None = None


class UsageDayOut(_Out):
    """A day (UTC). Tokens as Gemini counts them, refused and discarded answers included; `messages`: of customers, that
    the answers are to."""

    day: date
    answers: int
    prompt_tokens: Annotated[int, Field(validation_alias="input_tokens")]
    output_tokens: int
    messages: int


class SpentTodayOut(_Out):
    """Since midnight UTC. `limits_reached`: while there are any the bot sends the fallback text and calls a person."""

    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    limits_reached: tuple[str, ...] = ()


class NoticeOut(_Out):
    """A report of Meta: `field` and `event` are Meta's names, `words` say what happened. With the field
    `daily_token_budget` it is Chorus' own."""

    at: datetime
    field: str
    event: str
    words: str
    severity: Literal["info", "warning", "error"]


class AccountOut(_Out):
    """Without secrets."""

    id: str
    name: str
    slug: str
    phone_number_id: str
    phone_number: str | None
    is_active: bool
    bot_auto_on: bool
    blocked_reason: str | None
    """Why WhatsApp takes nothing from this account, in a stable word; null while it does."""
    blocked_since: datetime | None
    app_id: str | None
    """The Meta app that speaks for the number; null: the first one of the installation."""
    daily_token_budget: int | None
    """Tokens of the model in a UTC day; over it customers get the fallback text and a person. Null: no such limit."""
    last_notice: NoticeOut | None
    """What Meta reported last about the account or its number."""
    created_at: datetime
    updated_at: datetime
    spent_today: SpentTodayOut = Field(default_factory=SpentTodayOut)


class MemberIn(_In):
    model_config = ConfigDict(json_schema_extra={"examples": [{"role": "agent"}]})

    role: Role


class MemberOut(_Out):
    user_id: str
    role: Role
    created_at: datetime


class ApiKeyIn(_In):
    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "our CRM", "role": "agent"}]})

    name: Name
    role: Role


class ApiKeyOut(_Out):
    """Without the key. `hint`: its last characters. `last_used_at` is noted once a minute."""

    id: str
    account_id: str
    name: str
    role: Role
    hint: str
    created_by: str
    maker_role: Role | None
    """Of the member `created_by` by now; null: a key, an operator, or a person who is a member no more."""
    created_at: datetime
    last_used_at: datetime | None


class ApiKeyWithSecretOut(ApiKeyOut):
    key: str
    """`chorus_…`, shown once."""


class InvitationIn(_In):
    model_config = ConfigDict(json_schema_extra={"examples": [{"role": "agent"}]})

    role: Role


class InvitationTokenIn(_In):
    model_config = ConfigDict(json_schema_extra={"examples": [{"token": "invite_as-the-link-has-it"}]})

    token: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$")]


class InvitationOut(_Out):
    """Without its token. `accepted_by` is null while it is open."""

    id: str
    account_id: str
    role: Role
    created_by: str
    created_at: datetime
    expires_at: datetime
    accepted_by: str | None
    accepted_at: datetime | None


class InvitationWithTokenOut(InvitationOut):
    token: str
    """`invite_…`, shown once."""
    link: str
    """To the console at the address of this request, with the token."""


class MembershipOut(_Out):
    account_id: str
    user_id: str
    role: Role
    created_at: datetime


class AuditEntryOut(_Out):
    """One change. `changes`: by field `{"old", "new"}`, or `{"changed": true}` where the values are secret; long values
    by their beginning."""

    id: int
    account_id: str | None
    """Null: of the whole installation."""
    at: datetime
    actor_kind: Annotated[str, Field(examples=[str(kind) for kind in ActorKind])]
    actor_id: str
    """The user id, `key:<id>`, `operator`, or the database's user for what Chorus does by itself."""
    address: str | None
    request_id: str | None
    action: Annotated[str, Field(examples=["member.created", "profile.changed", "api_key.deleted", "breaker.forced"])]
    subject: str
    """Which one: a user id, the id of a key or a webhook, a circuit's name."""
    changes: dict[str, Any]


class AuditPage(_Out):
    items: tuple[AuditEntryOut, ...]
    next_cursor: str | None


def _are_different(events: list[EventType]) -> list[EventType]:
    if len(set(events)) != len(events):
        raise PydanticCustomError("unique", "each event may be named once")
    return events


WebhookUrl = Annotated[str, StringConstraints(min_length=1, max_length=MAX_URL_CHARACTERS, pattern=r"^[\x21-\x7e]+$")]
WebhookEvents = Annotated[
    list[EventType],
    Field(min_length=1, max_length=len(EventType), json_schema_extra={"uniqueItems": True}),
    AfterValidator(_are_different),
]


class WebhookIn(_In):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"url": "https://crm.example/chorus", "events": ["conversation.needs_human"]}]}
    )

    url: WebhookUrl
    events: WebhookEvents


class WebhookChanges(_In):
    """Only what changes."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": True}]})

    url: WebhookUrl = may_be_absent()
    events: WebhookEvents = may_be_absent()
    enabled: StrictBool = may_be_absent()
    rotate_secret: StrictBool = may_be_absent()
    overlap_hours: Annotated[StrictInt, Field(ge=0, le=168)] = may_be_absent()
    """With `rotate_secret`: for how long the secret before signs, too (24). 0: not at all, as when it has leaked."""


class WebhookOut(_Out):
    id: str
    account_id: str
    url: str
    events: tuple[str, ...]
    enabled: bool
    disabled_reason: str | None
    """Why it is switched off: `by_hand`, `gone` (it answered 410), `failing` (for three days)."""
    disabled_at: datetime | None
    failing_since: datetime | None
    """The first failed delivery since the last one that went well."""
    previous_secret_until: datetime | None
    """Until then the secret before this one signs, too; null, or a time that is over: it does not."""
    created_at: datetime
    updated_at: datetime


class WebhookWithSecretOut(WebhookOut):
    secret: str | None
    """`whsec_…`, shown once: when it is made."""


class WebhookTestOut(_Out):
    """`status` is null where there was no answer. `text`: the answer's first characters."""

    outcome: str
    status: int | None
    ms: int
    text: str


class DeliveryOut(_Out):
    """One attempt. `answer`: the first characters of what the receiver said."""

    event_id: str
    type: str
    outcome: str
    status: int | None
    ms: int
    answer: str
    at: datetime


def _has_letters(keyword: str) -> str:
    if not any(sign.isalnum() for sign in keyword):
        raise PydanticCustomError("keyword", "a keyword has at least one letter or digit")
    return keyword


Keyword = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_KEYWORD_CHARACTERS, pattern=SOME_TEXT),
    AfterValidator(_has_letters),
]
Keywords = Annotated[list[Keyword], Field(max_length=MAX_KEYWORDS)]
MAX_PAUSE_MINUTES = 10_080
"""A week."""


def _digits(number: str) -> str:
    digits = phone_digits(number)
    if digits is None or len(digits) < 6:
        raise PydanticCustomError("phone_number", "Input should be a phone number with its country code")
    return digits


NotifyNumber = Annotated[
    str, StringConstraints(pattern=r"^\+?0{0,2}[1-9]([ ().-]{0,2}[0-9]){5,14}$"), AfterValidator(_digits)
]
"""Kept as digits."""

Opening = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]
Closing = Annotated[str, StringConstraints(pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$")]
Ranges = Annotated[list[tuple[Opening, Closing]], Field(max_length=MAX_RANGES)]


class WeekIn(_In):
    """A day that is left out is closed."""

    monday: Ranges = []
    tuesday: Ranges = []
    wednesday: Ranges = []
    thursday: Ranges = []
    friday: Ranges = []
    saturday: Ranges = []
    sunday: Ranges = []


def _is_time_zone(name: str) -> str:
    if not is_time_zone(name):
        raise PydanticCustomError("time_zone", "Input should be a time zone of the IANA database, as Europe/Paris")
    return name


def _are_days(exceptions: dict[str, Ranges]) -> dict[str, Ranges]:
    for day in exceptions:
        try:
            date.fromisoformat(day)
        except ValueError:
            raise PydanticCustomError("date", "an exception is named by its day, as 2026-12-25") from None
    return exceptions


class BusinessHoursIn(_In):
    """When people are there, in local time. A range that ends at or before its start ends on the next day."""

    time_zone: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+/-]{1,64}$"), AfterValidator(_is_time_zone)]
    weekly: WeekIn
    exceptions: Annotated[
        dict[Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")], Ranges],
        Field(max_length=MAX_EXCEPTIONS),
        AfterValidator(_are_days),
    ] = {}


class ProfileChanges(_In):
    """Only what changes; null puts the application's default back. NUL characters in free-form parts are stored as
    U+FFFD, whole numbers beyond 64 bits as floating-point numbers."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"business_name": "Maison Levain", "hours": "Tue-Sun 7:00-19:30"}]}
    )

    business_name: Annotated[str, StringConstraints(max_length=200, pattern=NO_NUL)] | None = None
    description: LongText | None = None
    address: Annotated[str, StringConstraints(max_length=1000, pattern=NO_NUL)] | None = None
    hours: Annotated[str, StringConstraints(max_length=2000, pattern=NO_NUL)] | None = None
    knowledge_base: LongText | None = None
    custom_fields: CustomFields | None = None
    template_config: FreeForm | None = None
    fallback_text: ReplyText | None = None
    interim_text: ReplyTextOrNone | None = None
    non_text_reply: ReplyText | None = None
    model: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,100}$")] | None = None
    temperature: Annotated[float, Field(strict=True, ge=0, le=2)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_OUTPUT_TOKENS), NOT_TEXT] | None = None
    resend_ambiguous: StrictBool | None = None
    greeting_text: ReplyText | None = None
    auto_reply_limit: Annotated[int, Field(ge=1, le=1000), NOT_TEXT] | None = None
    auto_reply_minutes: Annotated[int, Field(ge=1, le=1440), NOT_TEXT] | None = None
    media_understanding: StrictBool | None = None
    media_kinds: Annotated[list[MediaKind], Field(max_length=len(MEDIA_KINDS))] | None = None
    media_max_bytes: Annotated[int, Field(ge=1, le=MAX_MEDIA_BYTES), NOT_TEXT] | None = None
    media_max_seconds: Annotated[int, Field(ge=1, le=MAX_MEDIA_SECONDS), NOT_TEXT] | None = None
    media_max_pages: Annotated[int, Field(ge=1, le=MAX_MEDIA_PAGES), NOT_TEXT] | None = None
    handover_keywords: Keywords | None = None
    on_handover: OnHandover | None = None
    handover_pause_minutes: Annotated[int, Field(ge=1, le=MAX_PAUSE_MINUTES), NOT_TEXT] | None = None
    handover_notify_number: NotifyNumber | None = None
    business_hours: BusinessHoursIn | None = None
    outside_hours_text: ReplyTextOrNone | None = None
    stop_words: Annotated[list[Keyword], Field(max_length=MAX_STOP_WORDS)] | None = None


class ProfileOut(_Out):
    account_id: str
    business_name: str
    description: str
    address: str
    hours: str
    knowledge_base: str
    custom_fields: dict[str, Any]
    template_config: dict[str, Any]
    fallback_text: str
    interim_text: str
    non_text_reply: str
    model: str | None
    temperature: float | None
    max_output_tokens: int | None
    resend_ambiguous: bool
    greeting_text: str | None
    auto_reply_limit: int
    auto_reply_minutes: int
    media_understanding: bool
    media_kinds: tuple[str, ...]
    media_max_bytes: int | None
    media_max_seconds: int
    media_max_pages: int | None
    handover_keywords: tuple[str, ...]
    on_handover: OnHandover
    handover_pause_minutes: int
    handover_notify_number: str | None
    business_hours: dict[str, Any] | None
    outside_hours_text: str | None
    stop_words: tuple[str, ...]
    updated_at: datetime | None


class ContactOut(_Out):
    id: str
    wa_id: str | None
    user_id: str | None
    name: str | None
    group_id: str | None


class LastMessageOut(_Out):
    """`text`: its first 200 characters."""

    author: Author
    type: str
    text: str | None
    status: Status


class ConversationOut(_Out):
    id: str
    account_id: str
    contact: ContactOut
    bot_enabled: bool
    needs_human: bool
    needs_human_reason: Annotated[str | None, Field(examples=[str(reason) for reason in HandoverReason])]
    """A word of the list; a newer version may have more."""
    needs_human_since: datetime | None
    bot_paused_until: datetime | None
    """The bot is silent until then, because a person is to come; null, or a time that is over: it is not."""
    handover_notice: Annotated[str | None, Field(examples=[str(outcome) for outcome in NoticeOutcome])]
    """What became of the text to the profile's `handover_notify_number`; null: none was due, or not yet."""
    handover_notice_error: dict[str, Any] | None
    """Of a text that `failed`: Meta's `code`, as in the error of a message."""
    opted_out_since: datetime | None
    """The customer wants no automatic answers (STOP); the bot is off until they write START or it is switched on."""
    unread_count: int
    last_message_at: datetime | None
    """When something was last said here, by the server's clock: lists are in this order, the newest first."""
    last_message: LastMessageOut | None
    """What was written last, reactions apart; null in the answers to changes."""
    last_inbound_at: datetime | None
    created_at: datetime
    updated_at: datetime


class MediaOut(_Out):
    """The file of a message: `GET /messages/{id}/media`."""

    kind: str
    mime: str
    size: int | None
    """In bytes, once it is kept."""
    name: str | None
    state: Annotated[str, Field(examples=[str(state) for state in MediaState])]
    """Only `kept` is there to be read. A newer version may have more words."""
    description: str | None
    """What it says or shows, as the model heard or saw it."""


class MessageOut(_Out):
    id: str
    conversation_id: str
    direction: Direction
    author: Author
    type: str
    text: str | None
    status: Status
    timestamp: datetime
    wa_message_id: str | None
    outbound_key: str | None
    error: dict[str, Any] | None
    payload: dict[str, Any] | None
    edited_at: datetime | None
    edits: tuple[dict[str, Any], ...]
    sent_by: str | None
    """The user who wrote it through this API; null for everything else."""
    media: MediaOut | None = None


class ConversationPage(_Out):
    items: tuple[ConversationOut, ...]
    next_cursor: str | None


class MessagePage(_Out):
    items: tuple[MessageOut, ...]
    next_cursor: str | None


class ErasureOut(_Out):
    """What went: rows of the database by place; of the queue events, claims that were broken, dead letters and ids."""

    database: dict[str, int]
    queue: dict[str, int]


class ContactExportOut(_Out):
    """As stored. `other_ids`: numbers and user ids that the contact had before; messages have their `status`."""

    account_id: str
    contact: dict[str, Any]
    other_ids: tuple[dict[str, Any], ...]
    conversations: tuple[dict[str, Any], ...]
    messages: tuple[dict[str, Any], ...]


class ConversationCountsOut(_Out):
    needs_human: int
    unread: int
    bot: int
    """Where the bot answers."""
    all: int
    counted_to: int
    """No list is counted further."""


class MessageIn(_In):
    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "Claire here: we keep a table for you."}]})

    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=20_000, pattern=SOME_TEXT)]


class FileText(_In):
    """The words beside a file; they may be missing."""

    text: Annotated[str, StringConstraints(strip_whitespace=True, max_length=4096, pattern=NO_NUL)] = ""


class FileIn(FileText):
    """As `multipart/form-data`. `text`: the caption, of an audio file or sticker a message of its own behind it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "Your invoice"}]})

    file: Annotated[str, Field(json_schema_extra={"format": "binary"})]


class ReplyOut(_Out):
    """A person's message on its way: `state` becomes `sent` once WhatsApp accepted it."""

    key: str
    conversation_id: str
    state: ReplyState
    body: str
    sent_by: str | None
    """The user who wrote it."""


class BotIn(_In):
    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": True}]})

    enabled: StrictBool


Email = Annotated[str, StringConstraints(max_length=320, pattern=r"^\s*[^\s@\x00]+@[^\s@\x00]+\s*$")]
Secret = Annotated[str, StringConstraints(min_length=1, max_length=8192, pattern=NO_NUL)]
"""A password, a key or a token."""
_WAYS = ({"email", "password"}, {"operator_key"}, {"token"}, {"token", "refresh_token"})


class SessionIn(_In):
    """One of: `email` with `password` · `operator_key` · `token`, a person's access token, and the `refresh_token` that
    came with it, so that the session outlives it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"email": "ada@example.com", "password": "battery"}]})

    email: Email | None = None
    password: Secret | None = None
    operator_key: Secret | None = None
    token: Secret | None = None
    refresh_token: Secret | None = None

    @model_validator(mode="after")
    def _one_way(self) -> SessionIn:
        if {name for name in self.model_fields_set if getattr(self, name) is not None} not in _WAYS:
            raise ValueError("give email and password, or operator_key, or token")
        return self


class MagicLinkIn(_In):
    model_config = ConfigDict(json_schema_extra={"examples": [{"email": "ada@example.com"}]})

    email: Email


class AccessOut(_Out):
    id: str
    name: str
    role: Role


class SessionOut(_Out):
    kind: Literal["member", "operator"]
    user_id: str
    email: str | None
    accounts: Annotated[
        list[AccessOut], Field(description="By name; to the operator all, or none while the database is away.")
    ]
    expires_at: Annotated[datetime | None, Field(description="At the latest; a session also ends when it is not used.")]


class SimulatedTurn(_In):
    from_: Annotated[Literal["customer", "bot"], Field(alias="from")]
    text: ReplyText


class SimulationIn(_In):
    """`profile`: any subset of the fields, as they are edited and not yet saved. The last turn is the customer's."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"profile": {"hours": "9-5"}, "turns": [{"from": "customer", "text": "Are you open at noon?"}]}
            ]
        }
    )

    profile: ProfileChanges = Field(default_factory=ProfileChanges)
    turns: Annotated[list[SimulatedTurn], Field(min_length=1, max_length=60)]


class PromptTurnOut(_Out):
    from_: Annotated[Literal["customer", "bot"], Field(serialization_alias="from")]
    text: str


class PromptOut(_Out):
    """What the model was told, word for word: turns of one side in a row are one, and the oldest may be left out."""

    system: Annotated[str, Field(description="The rules and the profile.")]
    turns: list[PromptTurnOut]


class SimulatedOut(_Out):
    text: str
    calls_person: bool
    reason: Annotated[str | None, Field(description="Why a person would be called.")]
    prompt: Annotated[
        PromptOut | None, Field(description="`null`: a keyword called a person, and the model was not asked.")
    ]
