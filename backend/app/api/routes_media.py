"""The file of a message, for people: in whole or in part, and never as a page."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import quote

from fastapi import Request
from starlette.responses import Response, StreamingResponse

from app.api.deps import CurrentUser, Replica
from app.api.errors import error_response
from app.api.json_route import json_router
from app.api.openapi import plain_problem, problems
from app.domain.extent import HEAD_BYTES, is_large_picture
from app.domain.media import UNKNOWN_MIME, Media, served_as

router = json_router("/messages", "conversations")

_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
_SAFE = {
    "content-security-policy": "default-src 'none'; sandbox",
    "cross-origin-resource-policy": "same-origin",
    "accept-ranges": "bytes",
    "cache-control": "private, no-cache",  # asked again each time: nothing to see after an erasure or a sign-out
}
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


class _Range(NamedTuple):
    """Up to, not with, `end`."""

    start: int
    end: int


@router.get(
    "/{message_id}/media",
    response_class=Response,
    responses={
        200: {"description": "The file.", "content": _BINARY},
        206: {"description": "The part of it that `Range` asks for.", "content": _BINARY},
        304: {"description": "It is the one that `If-None-Match` names."},
        416: plain_problem(416, "The file has no such part."),
        **problems(401, 404, 422, 503),
    },
)
async def get_media(replica: Replica, user: CurrentUser, message_id: str, request: Request) -> Response:
    """For members. With `Range` (one range), `ETag` and `If-None-Match`. Only pictures, recordings and videos may be
    shown in place; everything else is a download. 404 `media_not_found`: the message has no file, or it is not kept
    (`media.state`)."""
    media = await replica.conversations.media(user, message_id)
    size, tag = media.size or 0, f'"{media.sha256}"'
    headers = _SAFE | {"etag": tag}
    if tag in [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    asked = _asked(request, size, tag)
    if asked is not None and not asked.start < asked.end:
        headers = {"content-range": f"bytes */{size}"}
        return error_response(416, "range_not_satisfiable", f"the file has {size} bytes", headers=headers)
    part = asked or _Range(0, size)
    headers |= _described(media, in_place=await _may_be_shown(replica, media))
    headers["content-length"] = str(part.end - part.start)
    if asked is not None:
        headers["content-range"] = f"bytes {part.start}-{part.end - 1}/{size}"
    pieces = replica.conversations.read_media(media, start=part.start, end=part.end)
    first = await anext(pieces, b"")  # what goes wrong with the first piece is still told as an error
    return StreamingResponse(_all(first, pieces), 206 if asked else 200, headers)


async def _all(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


def _asked(request: Request, size: int, tag: str) -> _Range | None:
    """`None`: no part is asked for, or in a way that may be ignored (RFC 9110, section 14.2); an empty range: one that
    the file does not have."""
    asked = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if asked is None or request.headers.get("if-range", tag) != tag or not (asked[1] or asked[2]):
        return None
    if not asked[1]:
        return _Range(max(0, size - int(asked[2])), size if int(asked[2]) else 0)
    start, end = int(asked[1]), min(int(asked[2]) + 1, size) if asked[2] else size
    if asked[2] and int(asked[2]) < start:
        return None
    return _Range(start, end)


async def _may_be_shown(replica: Replica, media: Media) -> bool:
    """Not a picture that would take a browser's memory: as a download without a type it is no picture to a page."""
    if not media.mime.startswith("image/"):
        return True
    end = min(media.size or 0, HEAD_BYTES)
    head = b"".join([piece async for piece in replica.conversations.read_media(media, start=0, end=end)])
    return not is_large_picture(head)


def _described(media: Media, *, in_place: bool) -> dict[str, str]:
    mime, in_place = served_as(media.mime) if in_place else (UNKNOWN_MIME, False)
    name = media.name or media.kind
    plain = re.sub(r'[^ -~]|["\\]', "_", name)
    how = "inline" if in_place else "attachment"
    encoded = quote(name.encode("utf-8", "replace"), safe="")
    return {
        "content-type": mime,
        "content-disposition": f"{how}; filename=\"{plain}\"; filename*=UTF-8''{encoded}",
    }
