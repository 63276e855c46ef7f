"""Other systems that are told of events: an HTTP server whose paths are receivers, each with its own way to answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import orjson

from tests.support.fakes import peer, read_request, response

HANG = 0
"""In a status' place: never answer."""


class Told(NamedTuple):
    id: str
    type: str
    data: dict[str, Any]
    headers: dict[str, str]
    body: bytes
    status: int
    at: float


class Receivers:
    """What was told to each path, and what each answers from now on (200 unless `answers` says otherwise)."""

    def __init__(self) -> None:
        self.url = ""
        self.told: dict[str, list[Told]] = {}
        self.answers: dict[str, int | Callable[[Told], int]] = {}
        self._news = asyncio.Condition()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            line, headers, body = await read_request(reader)
            path = line.split()[1]
            event = orjson.loads(body)
            told = Told(event["id"], event["type"], event["data"], headers, body, 0, time.time())
            answer = self.answers.get(path, 200)
            status = answer(told) if callable(answer) else answer
            async with self._news:
                self.told.setdefault(path, []).append(told._replace(status=status))
                self._news.notify_all()
            if status == HANG:
                await asyncio.Event().wait()
            writer.write(response(b"", status=f"{status} X"))
            await writer.drain()

    def ids(self, path: str, *, status: int = 200) -> list[str]:
        """Of what the path took, each once, in the order in which it first came."""
        return list(dict.fromkeys(told.id for told in self.told.get(path, []) if told.status == status))

    async def until(self, path: str, count: int, *, status: int = 200, timeout_seconds: float = 10) -> list[str]:
        """Until the path has answered `count` different events so."""
        async with asyncio.timeout(timeout_seconds), self._news:
            await self._news.wait_for(lambda: len(self.ids(path, status=status)) >= count)
        return self.ids(path, status=status)


@asynccontextmanager
async def receivers() -> AsyncIterator[Receivers]:
    server = Receivers()
    async with peer(server.handle) as server.url:
        yield server
