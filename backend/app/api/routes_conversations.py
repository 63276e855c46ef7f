"""Conversations: listings, a person's answer, the bot's switch, read marks."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request
from pydantic import ValidationError

from app.api.deps import (
    AccountId,
    ConversationCursor,
    CurrentUser,
    IdempotencyKey,
    Limit,
    MessageCursor,
    Replica,
    SearchWords,
    Switch,
)
from app.api.form import MULTIPART, FormRoute, read_form
from app.api.json_route import json_router
from app.api.openapi import problems
from app.api.schemas import (
    BotIn,
    ConversationCountsOut,
    ConversationOut,
    ConversationPage,
    FileIn,
    FileText,
    MediaOut,
    MessageIn,
    MessageOut,
    MessagePage,
    ReplyOut,
)
from app.domain.errors import InvalidInput
from app.domain.models import ConversationFilter

router = json_router("/conversations", "conversations")


@router.get("", responses=problems(401, 404, 422, 503))
async def list_conversations(
    replica: Replica,
    user: CurrentUser,
    account_id: AccountId,
    needs_human: Annotated[Switch, Query(description="Is a person called?")] = None,
    unread: Annotated[Switch, Query(description="Is there a message that no person has read?")] = None,
    bot: Annotated[Switch, Query(description="Does the bot answer here?")] = None,
    q: SearchWords = None,
    limit: Limit = 50,
    cursor: ConversationCursor = None,
) -> ConversationPage:
    """For members: the most recently active first. A conversation is listed if it meets every filter that is given.
    A message is found by its words a few seconds after it came."""
    only = ConversationFilter(needs_human, unread, bot, q)
    page = await replica.conversations.list_for(user, account_id, limit=limit, cursor=cursor, only=only)
    return ConversationPage.model_validate(page)


@router.get("/counts", responses=problems(401, 404, 422, 503))
async def count_conversations(replica: Replica, user: CurrentUser, account_id: AccountId) -> ConversationCountsOut:
    """For members: how many conversations each list has. `counted_to` means as many or more."""
    return ConversationCountsOut.model_validate(await replica.conversations.counts(user, account_id))


@router.get("/{conversation_id}", responses=problems(401, 404, 422, 503))
async def get_conversation(replica: Replica, user: CurrentUser, conversation_id: str) -> ConversationOut:
    """For members."""
    return ConversationOut.model_validate(await replica.conversations.get(user, conversation_id))


@router.get("/{conversation_id}/messages", responses=problems(401, 404, 422, 503))
async def list_messages(
    replica: Replica, user: CurrentUser, conversation_id: str, limit: Limit = 50, cursor: MessageCursor = None
) -> MessagePage:
    """For members: the newest first."""
    page = await replica.conversations.messages(user, conversation_id, limit=limit, cursor=cursor)
    files = await replica.conversations.media_of(page.items)
    items = [
        MessageOut.model_validate(message).model_copy(update={"media": MediaOut.model_validate(files[message.id])})
        if message.id in files
        else MessageOut.model_validate(message)
        for message in page.items
    ]
    return MessagePage(items=tuple(items), next_cursor=page.next_cursor)


async def send_file(
    replica: Replica,
    user: CurrentUser,
    conversation_id: str,
    request: Request,
    idempotency_key: IdempotencyKey = None,
) -> ReplyOut:
    form = read_form(request.headers["content-type"], await request.body())
    if unknown := form.keys() - {"file", "text"}:
        raise InvalidInput(f'unknown field "{min(unknown)[:100]}"; the form takes file, text', field=min(unknown)[:100])
    file, text = form.get("file"), form.get("text")
    if file is None or not file.content:
        raise InvalidInput("the form has no file, or an empty one", field="file")
    try:
        words = FileText(text=text.content.decode() if text else "").text
    except (UnicodeDecodeError, ValidationError) as exc:
        raise InvalidInput("the text is too long, or no text", field="text") from exc
    reply = await replica.conversations.reply_with_file(
        user, conversation_id, content=file.content, name=file.filename, text=words, idempotency_key=idempotency_key
    )
    return ReplyOut.model_validate(reply)


router.add_api_route(
    "/{conversation_id}/messages",
    send_file,
    methods=["POST"],
    status_code=202,
    include_in_schema=False,
    route_class_override=FormRoute,
)


@router.post(
    "/{conversation_id}/messages",
    status_code=202,
    responses=problems(400, 401, 403, 404, 409, 413, 422, 503),
    openapi_extra={"requestBody": {"content": {MULTIPART: {"schema": FileIn.model_json_schema()}}}},
)
async def send_message(
    replica: Replica, user: CurrentUser, conversation_id: str, body: MessageIn, idempotency_key: IdempotencyKey = None
) -> ReplyOut:
    """For agents and owners. Accepted and durable; a worker sends it. 409 `window_closed`: more than 24 hours since the
    customer's last message. The bot is silent in this conversation from now on. A file comes as a form: JPEG or PNG up
    to 5 MB, OGG with Opus and other audio, MP4, PDF, Office documents or plain text up to 16 MB."""
    reply = await replica.conversations.reply_as_human(
        user, conversation_id, body.text, idempotency_key=idempotency_key
    )
    return ReplyOut.model_validate(reply)


@router.post("/{conversation_id}/bot", responses=problems(400, 401, 403, 404, 413, 422, 503))
async def set_bot(replica: Replica, user: CurrentUser, conversation_id: str, body: BotIn) -> ConversationOut:
    """For agents and owners: who answers here, the bot or people."""
    conversation = await replica.conversations.set_bot(user, conversation_id, enabled=body.enabled)
    return ConversationOut.model_validate(conversation)


@router.post("/{conversation_id}/read", responses=problems(401, 403, 404, 422, 503))
async def mark_read(replica: Replica, user: CurrentUser, conversation_id: str) -> ConversationOut:
    """For agents and owners: nothing is unread any more."""
    return ConversationOut.model_validate(await replica.conversations.mark_read(user, conversation_id))
