"""The stand-in for the WhatsApp Cloud API: sends, read receipts, media."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.sandbox.exchange import Answer, BodyTooLarge, answer, read_body
from app.sandbox.faults import Call, Fault
from app.sandbox.files_on_the_way import HalfSent, read_upload, spoiled_file
from app.sandbox.graph import Graph
from app.sandbox.graph import bearer as _bearer
from app.sandbox.graph import refusal as _refusal
from app.sandbox.graph import told_falsely as _told
from app.sandbox.record import Entry
from app.sandbox.sends import ReadReceipt, Refused, TextMessage, read_message
from app.sandbox.state import Media, SandboxState
from app.sandbox.statuses import Accepted, StatusFeed

MAX_BODY_BYTES = 1024 * 1024
MAX_UPLOAD_BYTES = 101 * 1024 * 1024
MediaProcess = Callable[[Media | None, Fault | None], Answer]
_VERSION = re.compile(r"v\d+\.\d+")


class WhatsApp:
    def __init__(self, state: SandboxState, statuses: StatusFeed, graph: Graph) -> None:
        self._state = state
        self._statuses = statuses
        self._graph = graph

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/{version}/{phone_number_id}/messages", self.messages, methods=["POST"]),
            Route("/{version}/{phone_number_id}/media", self.upload, methods=["POST"]),
            Route("/media/{token}", self.media_content, methods=["GET"]),
            Route("/{version}/{node_id}", self.node, methods=["GET"]),
            Route("/{node_id}", self.node, methods=["GET"]),
        ]

    async def messages(self, request: Request) -> Response:
        """Text, a file that was uploaded, or read receipt with or without typing indicator."""
        try:
            raw = await read_body(request, MAX_BODY_BYTES)
        except BodyTooLarge:
            return _refusal(100, "The request body is too large.").response()
        number = request.path_params["phone_number_id"]
        payload = _parsed(raw)
        call = _call(number, payload)
        data = payload.get("biz_opaque_callback_data") if isinstance(payload, Mapping) else None
        entry = self._state.record.open(
            call.operation,
            raw,
            phone_number_id=number,
            to=call.recipient,
            text=call.text,
            callback_data=data if isinstance(data, str) else None,
        )

        def process(fault: Fault | None) -> Answer:
            return _told(fault) or self._accept(request, number, payload, entry, fault)

        fault = self._state.faults.pick("whatsapp", call)
        return await answer(request, self._state.record, entry, fault, process)

    async def node(self, request: Request) -> Response:
        """`GET /{id}`: a phone number if one is registered under it, or `fields` ask for one of an unregistered
        number; else a media file."""
        node_id = request.path_params["node_id"]
        if node_id in self._state.accounts or ("fields" in request.query_params and node_id.isdecimal()):
            return await self._graph.number(request, node_id)
        return await self.media(request, node_id)

    async def media(self, request: Request, media_id: str) -> Response:
        """`GET /{media_id}`: where to read the file, for five minutes."""

        def describe(media: Media | None, _fault: Fault | None) -> Answer:
            if media is None:
                return _refusal(
                    100, f"Unsupported get request. Object with ID '{media_id}' does not exist.", subcode=33
                )
            return Answer.json(
                200,
                {
                    "messaging_product": "whatsapp",
                    "url": str(request.base_url) + "media/" + self._state.media.url_token(media.id),
                    "mime_type": media.mime_type,
                    "sha256": media.sha256,
                    "file_size": len(media.content),
                    "id": media.id,
                },
                processed=True,
            )

        return await self._media_request(request, self._state.media.get(media_id), describe)

    async def media_content(self, request: Request) -> Response:
        """The url handed out: the bytes, with the same bearer; 404 once it has expired."""

        def content(media: Media | None, fault: Fault | None) -> Answer:
            if media is None:
                return Answer(404, b"", content_type="text/plain")
            how = fault.spec.file if fault else None
            whole = Answer(200, media.content, processed=how is None, content_type=media.mime_type)
            return spoiled_file(how, media.content) or whole

        media = self._state.media.by_token(request.path_params["token"])
        return await self._media_request(request, media, content, operation="download")

    async def upload(self, request: Request) -> Response:
        """`POST /{version}/{phone_number_id}/media`: a file to be sent, by its id."""
        number = request.path_params["phone_number_id"]
        try:
            raw = await read_body(request, MAX_UPLOAD_BYTES)
        except BodyTooLarge:
            return _refusal(131053, "Media file size too big.").response()
        entry = self._state.record.open("upload", b"", phone_number_id=number)
        fault = self._state.faults.pick("whatsapp", Call("upload", number))

        def process(fault: Fault | None) -> Answer:
            told = _told(fault) or self._admitted(request, number)
            if told is not None:
                return told
            try:
                content, mime = read_upload(request.headers.get("content-type", ""), raw)
            except Refused as exc:
                return _refusal(exc.code, exc.details)
            media = self._state.media.add(content, mime)
            entry.text = media.sha256
            return Answer.json(200, {"id": media.id}, processed=True)

        return await answer(request, self._state.record, entry, fault, process)

    async def _media_request(
        self, request: Request, media: Media | None, process: MediaProcess, *, operation: str = "media"
    ) -> Response:
        entry = self._state.record.open(operation, b"", url=request.url.path, text=media.id if media else None)
        fault = self._state.faults.pick("whatsapp", Call(operation))

        def authorised(fault: Fault | None) -> Answer:
            told = _told(fault)
            if told is not None:
                return told
            return process(media, fault) if self._state.token_is_known(_bearer(request)) else _refusal(190)

        answered = await answer(request, self._state.record, entry, fault, authorised)
        if fault is not None and fault.spec.file in ("cut", "stall"):
            return HalfSent(answered, fault)
        return answered

    def _accept(self, request: Request, number: str, payload: object, entry: Entry, fault: Fault | None) -> Answer:
        refused = self._admitted(request, number)
        if refused is not None:
            return refused
        try:
            message = read_message(payload)
        except Refused as exc:
            return _refusal(exc.code, exc.details)
        if isinstance(message, ReadReceipt):
            entry.wamid = message.message_id
            return Answer.json(200, {"success": True}, processed=True)
        return self._send(number, message, entry, fault)

    def _admitted(self, request: Request, number: str) -> Answer | None:
        if not _VERSION.fullmatch(request.path_params["version"]):
            return _refusal(100, f"Unknown path components: /{request.path_params['version']}")
        account = self._state.accounts.get(number)
        if not self._state.token_opens(_bearer(request), account):
            return _refusal(190 if account or self._state.config.accept_unknown_accounts else 33)
        return None

    def _send(self, number: str, message: TextMessage, entry: Entry, fault: Fault | None) -> Answer:
        account = self._state.accounts.get(number)
        if account is not None and message.to == account.display_phone_number:
            return _refusal(131021)
        if message.media_id is not None:
            entry.text = message.text
            if self._state.media.get(message.media_id) is None:
                return _refusal(131053, f"No media with the id {message.media_id}.")
        limit = self._state.limits.admit(number, message.to, self._state.behaviour)
        if limit is not None:
            return _refusal(limit)
        entry.wamid = wamid(message.to)
        failed = fault.spec.failed_status if fault else None
        self._statuses.accepted(
            Accepted(number, message.to, entry.wamid, message.callback_data, message.text), failed_code=failed
        )
        key = "user_id" if message.is_user_id else "wa_id"
        payload = {
            "messaging_product": "whatsapp",
            "contacts": [{"input": message.given, key: message.to}],
            "messages": [{"id": entry.wamid}],
        }
        return Answer.json(200, payload, processed=True)


def wamid(user: str) -> str:
    """A message id in the shape of Meta's: base64 around the user and 18 hex digits."""
    inner = b"\x1c\x18" + bytes([len(user) % 256]) + user.encode() + b"\x15\x02\x00\x11\x18\x12"
    return "wamid." + base64.b64encode(inner + secrets.token_hex(9).upper().encode() + b"\x00").decode()


def _call(number: str, payload: Any) -> Call:
    """What rules and the record see of a request, right or wrong."""
    if not isinstance(payload, Mapping):
        return Call("send", number)
    if "status" in payload:
        return Call("read", number)
    to, text = payload.get("to") or payload.get("recipient"), payload.get("text")
    body = text.get("body") if isinstance(text, Mapping) else None
    recipient = to.lstrip("+") if isinstance(to, str) else None
    return Call("send", number, recipient=recipient, text=body if isinstance(body, str) else None)


def _parsed(raw: bytes) -> object:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
