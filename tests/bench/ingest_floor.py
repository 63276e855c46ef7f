"""The least that a durable webhook costs: a bare ASGI callable that checks the signature, parses the JSON, trusts it to
have the shape of a text message, and puts the raw body with the project's own micro-batched script. It imports no more
than that needs.
"""

from __future__ import annotations

import os
import sys

import orjson
from starlette.types import Receive, Scope, Send

from app.core.queue import Event, Queue, QueuePolicy
from app.core.redis.door import Door
from tests.bench.ingest_server import is_signed, serve


class Floor:
    def __init__(self, queue: Queue, key: bytes) -> None:
        self._queue = queue
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        given = next(value for name, value in scope["headers"] if name == b"x-hub-signature-256")
        if not is_signed(self._key, body, given):
            raise ValueError("not signed")
        message = orjson.loads(body)["entry"][0]["changes"][0]["value"]["messages"][0]
        await self._queue.put([Event(message["id"], message["from"], body)])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"OK"})


def main(keep_alive_seconds: str) -> None:
    redis_url = os.environ["REDIS_URL"]
    queue = Queue(
        Door.to(redis_url),
        Door.to(redis_url),
        policy=QueuePolicy(debounce_seconds=1.0, max_pending=1_000_000, max_bytes=10**10),
        namespace="floor",
    )
    app = Floor(queue, os.environ["META_APP_SECRET"].encode())
    serve(app, keep_alive_seconds=int(keep_alive_seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
