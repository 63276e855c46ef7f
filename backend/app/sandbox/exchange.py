"""One request and the fault that befalls it: delay, hang, drop or a false answer around the real processing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.sandbox.faults import Fault, FaultSpec
from app.sandbox.record import Entry, Record

CLOSE_EXTENSION = "chorus.sandbox.close"
"""`scope["extensions"]`: a function of `reset: bool` that ends the TCP connection (see serving.py)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`processed`: the request had its effect. `code`: the error's name for the record."""

    status: int
    body: bytes
    processed: bool = False
    code: str | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, status: int, payload: Any, *, processed: bool = False, code: str | None = None) -> Answer:
        return cls(status, orjson.dumps(payload), processed, code)

    def response(self) -> Response:
        return Response(self.body, self.status, dict(self.headers), self.content_type)


class Dropped(Response):
    """Ends the connection without an answer: with FIN, or with RST if `reset`."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self._reset = reset

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        close = scope.get("extensions", {}).get(CLOSE_EXTENSION)
        if close is None:
            raise RuntimeError("connections can be dropped only under app.sandbox.serving")
        close(reset=self._reset)
        await _disconnected(receive)


async def answer(
    request: Request,
    record: Record,
    entry: Entry,
    fault: Fault | None,
    process: Callable[[Fault | None], Answer],
) -> Response:
    """`process` the request, which may answer falsely as `fault` says; delays, hangs and drops happen around it."""
    if fault is None:
        return _answered(record, entry, process(None))
    entry.fault = fault.id
    action = fault.spec.action
    await asyncio.sleep(fault.delay_seconds())
    if action in ("refuse", "drop_before") or (action == "hang_before" and not await _held(request, fault)):
        return _closed(record, entry, reset=action == "refuse")
    result = process(fault)
    if result.processed:
        record.process(entry)
    if action == "drop_after" or (action == "hang_after" and not await _held(request, fault)):
        return _closed(record, entry)
    return _answered(record, entry, result)


def false_answer(spec: FaultSpec, refusal: tuple[int, object] | None, code: str | None) -> Answer | None:
    """What a rule makes us say: `refusal` (status, body) under the name `code`, or a bare status, as a proxy would."""
    headers = {} if spec.retry_after is None else {"Retry-After": str(spec.retry_after)}
    if refusal is not None:
        status, payload = refusal
        return Answer(status, orjson.dumps(payload), code=code, headers=headers)
    if spec.http_status is not None:
        name = f"http_{spec.http_status}"
        return Answer(spec.http_status, spec.body.encode(), code=name, content_type="text/html", headers=headers)
    return None


class BodyTooLarge(Exception):
    """More than the limit; the rest was not read."""


async def read_body(request: Request, limit: int) -> bytes:
    """Raises `BodyTooLarge`, and Starlette's `ClientDisconnect` when the caller gives up."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge
        chunks.append(chunk)
    return b"".join(chunks)


def _answered(record: Record, entry: Entry, result: Answer) -> Response:
    entry.code = result.code
    if result.processed:
        record.process(entry)
    record.answer(entry, result.status)
    return result.response()


def _closed(record: Record, entry: Entry, *, reset: bool = False) -> Response:
    record.close(entry)
    return Dropped(reset=reset)


async def _held(request: Request, fault: Fault) -> bool:
    """Wait for the rule's time to pass or its deletion. False: the caller went away first."""
    gone = asyncio.ensure_future(_disconnected(request.receive))
    freed = asyncio.ensure_future(fault.released.wait())
    try:
        done, _ = await asyncio.wait((gone, freed), timeout=fault.hang_seconds(), return_when=asyncio.FIRST_COMPLETED)
        return gone not in done
    finally:
        gone.cancel()
        freed.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
