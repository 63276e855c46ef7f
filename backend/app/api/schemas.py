"""What comes in and goes out over HTTP. Unknown fields are refused: a typing error must not look like success."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.domain.models import MAX_OUTPUT_TOKENS
from app.domain.profile_limits import PROFILE_BYTES

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
PhoneNumberId = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,32}$")]
PhoneNumber = Annotated[str, StringConstraints(pattern=r"^\+?[0-9]{6,20}$")]
Secret = Annotated[str, StringConstraints(min_length=8, max_length=1000)]
LongText = Annotated[str, StringConstraints(max_length=PROFILE_BYTES)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class AccountIn(_In):
    name: Name
    slug: Slug
    phone_number_id: PhoneNumberId
    access_token: Secret
    verify_token: Secret
    phone_number: PhoneNumber | None = None
    bot_auto_on: bool = True


class AccountChanges(_In):
    name: Name | None = None
    slug: Slug | None = None
    access_token: Secret | None = None
    verify_token: Secret | None = None
    phone_number: PhoneNumber | None = None
    is_active: bool | None = None
    bot_auto_on: bool | None = None


class SpentTodayOut(_Out):
    """Since midnight UTC. `limits_reached`: while there are any the bot sends the fallback text and calls a person."""

    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    limits_reached: tuple[str, ...] = ()


class AccountOut(_Out):
    """Without secrets. `spent_today`: in the list of accounts only."""

    id: str
    name: str
    slug: str
    phone_number_id: str
    phone_number: str | None
    is_active: bool
    bot_auto_on: bool
    created_at: datetime
    updated_at: datetime
    spent_today: SpentTodayOut | None = None


class ProfileChanges(_In):
    business_name: Annotated[str, StringConstraints(max_length=200)] | None = None
    description: LongText | None = None
    address: Annotated[str, StringConstraints(max_length=1000)] | None = None
    hours: Annotated[str, StringConstraints(max_length=2000)] | None = None
    knowledge_base: LongText | None = None
    custom_fields: dict[str, Any] | None = None
    template_config: dict[str, Any] | None = None
    fallback_text: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None
    non_text_reply: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None
    model: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,100}$")] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_OUTPUT_TOKENS)] | None = None
    resend_ambiguous: bool | None = None
    greeting_text: Annotated[str, StringConstraints(min_length=1, max_length=4096)] | None = None
    auto_reply_limit: Annotated[int, Field(ge=1, le=1000)] | None = None
    auto_reply_minutes: Annotated[int, Field(ge=1, le=1440)] | None = None


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
    non_text_reply: str
    model: str | None
    temperature: float | None
    max_output_tokens: int | None
    resend_ambiguous: bool
    greeting_text: str | None
    auto_reply_limit: int
    auto_reply_minutes: int
    updated_at: datetime | None


class ContactOut(_Out):
    id: str
    wa_id: str | None
    user_id: str | None
    name: str | None
    group_id: str | None


class ConversationOut(_Out):
    id: str
    account_id: str
    contact: ContactOut
    bot_enabled: bool
    needs_human: bool
    needs_human_reason: str | None
    needs_human_since: datetime | None
    unread_count: int
    last_inbound_at: datetime | None
    created_at: datetime
    updated_at: datetime


class MessageOut(_Out):
    id: str
    conversation_id: str
    direction: str
    author: str
    type: str
    text: str | None
    status: str
    timestamp: datetime
    wa_message_id: str | None
    outbound_key: str | None
    error: dict[str, Any] | None
    payload: dict[str, Any] | None
    edited_at: datetime | None
    edits: tuple[dict[str, Any], ...]


class ConversationPage(_Out):
    items: tuple[ConversationOut, ...]
    next_cursor: str | None


class MessagePage(_Out):
    items: tuple[MessageOut, ...]
    next_cursor: str | None


class MessageIn(_In):
    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=20_000)]


class ReplyOut(_Out):
    """A person's message on its way: `state` becomes `sent` once WhatsApp accepted it."""

    key: str
    conversation_id: str
    state: str
    body: str


class BotIn(_In):
    enabled: bool
