"""The live stream of an account: Server-Sent Events, for the console and for programs that watch."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.deps import AccountId, CurrentUser, LastEventId, Replica, is_still_signed_in
from app.api.json_route import json_router
from app.api.openapi import problems
from app.core.feed import RESET, Happened, Reader

router = json_router("/events", "live")

RETRY_MS = 1000
"""Longer than the balancer needs to see that a replica drains: a reader who is sent away comes back to another one."""
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx
}
_STREAM: dict[int | str, dict[str, object]] = {
    200: {
        "description": "A stream of events that does not end by itself.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@dataclass(frozen=True, slots=True)
class StreamTimings:
    heartbeat_seconds: float = 15.0
    """Well below the 35 s after which the shipped balancer gives up on a silent answer."""
    look_seconds: tuple[float, float] = (30.0, 45.0)
    """Is the person still signed in and still a member? Between these, so that not all streams ask at once."""


TIMINGS = StreamTimings()


class EventStream(Response):
    """Writes what a reader hears until the client is gone, the reader is closed, or `may_go_on` says no."""

    media_type = "text/event-stream"

    def __init__(
        self,
        reader: Reader,
        may_go_on: Callable[[], Awaitable[bool]],
        *,
        ends_at_once: bool = False,
        timings: StreamTimings = TIMINGS,
    ) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._reader = reader
        self._may_go_on = may_go_on
        self._ends_at_once = ends_at_once
        self._timings = timings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reader = self._reader
        gone = asyncio.create_task(_until_gone(receive, reader))
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            # The id alone: it makes no event, and a browser that loses the connection comes back with it.
            await _write(send, b"retry: %d\nid: %b\n\n" % (RETRY_MS, reader.newest))
            if not self._ends_at_once:
                await self._write_all(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            reader.close()
            gone.cancel()

    async def _write_all(self, send: Send) -> None:
        clock, timings = asyncio.get_running_loop().time, self._timings
        look_at = clock() + random.uniform(*timings.look_seconds)
        while (happened := await self._reader.next(timings.heartbeat_seconds)) is not None:
            await _write(send, b"".join(map(_framed, happened)) or b":\n\n")
            if clock() >= look_at:
                if not await self._may_go_on():
                    return
                look_at = clock() + random.uniform(*timings.look_seconds)


async def _until_gone(receive: Receive, reader: Reader) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    reader.close()


async def _write(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


def _framed(happened: Happened) -> bytes:
    if happened.event == RESET:
        return b"id: %b\nevent: reset\ndata: {}\n\n" % happened.id
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (happened.id, happened.event, happened.data)


@router.get("", response_class=Response, responses=_STREAM | problems(401, 404, 422, 503))
async def stream_events(
    replica: Replica,
    request: Request,
    user: CurrentUser,
    account_id: AccountId,
    last_event_id: LastEventId = None,
) -> Response:
    """For members: what happens in the account, as Server-Sent Events. `event` is the type, `data` JSON with `type`,
    `account_id`, `conversation_id`, `at` and a few facts. After `event: reset` something may be missing: load the lists
    again. A client that comes back with `Last-Event-ID` within 90 seconds, to any replica, gets what it has missed."""
    reader = await replica.live.open(user, account_id, last_id=last_event_id)

    async def may_go_on() -> bool:
        return await is_still_signed_in(request) and await replica.live.may_still_read(user, account_id)

    return EventStream(reader, may_go_on, ends_at_once=replica.live.is_draining)
