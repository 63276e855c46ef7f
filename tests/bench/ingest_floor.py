"""The least that a durable webhook costs: a bare ASGI callable that checks the signature, parses the JSON and puts an
event, built beforehand, with the project's own micro-batched script. It imports no more than that needs.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys

import orjson
from starlette.types import Receive, Scope, Send

from app.core.queue import Event, Queue
from app.core.redis import connect
from app.domain.webhook import parse_webhook
from app.services.ingest_service import encode
from tests.bench.ingest_server import is_signed, serve
from tests.bench.traffic import webhook


class Floor:
    def __init__(self, queue: Queue, events: list[Event], key: bytes) -> None:
        self._queue = queue
        # The ids of a round are new, whichever event it begins with: a round takes fewer than there are.
        self._events = itertools.cycle(events)
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        given = next(value for name, value in scope["headers"] if name == b"x-hub-signature-256")
        if not is_signed(self._key, body, given):
            raise ValueError("not signed")
        orjson.loads(body)
        await self._queue.put([next(self._events)])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"OK"})


def main(count: str, keep_alive_seconds: str) -> None:
    redis_url = os.environ["REDIS_URL"]
    queue = Queue(
        connect(redis_url, timeout_seconds=1),
        connect(redis_url, timeout_seconds=3),
        namespace="floor",
        debounce_seconds=1.0,
        max_pending=100_000,
    )
    events = [encode(event) for n in range(int(count)) for event in parse_webhook(orjson.loads(webhook(n)))]
    gc.freeze()  # the garbage collector would look at every one of them, again and again
    app = Floor(queue, events, os.environ["META_APP_SECRET"].encode())
    serve(app, keep_alive_seconds=int(keep_alive_seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
