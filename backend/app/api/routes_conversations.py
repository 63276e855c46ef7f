"""Conversations: listings, a person's answer, the bot's switch, read marks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header

from app.api.deps import CurrentUser, Limit, Replica
from app.api.schemas import BotIn, ConversationOut, ConversationPage, MessageIn, MessagePage, ReplyOut

router = APIRouter(prefix="/conversations", tags=["conversations"])

IdempotencyKey = Annotated[str | None, Header(max_length=200, pattern=r"^[\x21-\x7e]+$")]


@router.get("")
async def list_conversations(
    replica: Replica, user: CurrentUser, account_id: str, limit: Limit = 50, cursor: str | None = None
) -> ConversationPage:
    page = await replica.conversations.list_for(user, account_id, limit=limit, cursor=cursor)
    return ConversationPage.model_validate(page)


@router.get("/{conversation_id}/messages")
async def list_messages(
    replica: Replica, user: CurrentUser, conversation_id: str, limit: Limit = 50, cursor: str | None = None
) -> MessagePage:
    page = await replica.conversations.messages(user, conversation_id, limit=limit, cursor=cursor)
    return MessagePage.model_validate(page)


@router.post("/{conversation_id}/messages", status_code=202)
async def send_message(
    replica: Replica, user: CurrentUser, conversation_id: str, body: MessageIn, idempotency_key: IdempotencyKey = None
) -> ReplyOut:
    """Accepted and durable; a worker sends it. The bot is silent in this conversation from now on."""
    reply = await replica.conversations.reply_as_human(
        user, conversation_id, body.text, idempotency_key=idempotency_key
    )
    return ReplyOut.model_validate(reply)


@router.post("/{conversation_id}/bot")
async def set_bot(replica: Replica, user: CurrentUser, conversation_id: str, body: BotIn) -> ConversationOut:
    conversation = await replica.conversations.set_bot(user, conversation_id, enabled=body.enabled)
    return ConversationOut.model_validate(conversation)


@router.post("/{conversation_id}/read")
async def mark_read(replica: Replica, user: CurrentUser, conversation_id: str) -> ConversationOut:
    return ConversationOut.model_validate(await replica.conversations.mark_read(user, conversation_id))
