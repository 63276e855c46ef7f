"""A browser's EventSource, as far as tests need it: it reads, remembers the last id, and comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson


@dataclass(frozen=True)
class Seen:
    id: str
    event: str
    data: dict[str, Any]
    at: float
    """`time.monotonic`."""


@dataclass
class EventSource:
    """`url` may be changed while it is open: a balancer would lead it elsewhere."""

    url: str
    headers: Mapping[str, str]
    seen: list[Seen] = field(default_factory=list)
    last_id: str = ""
    retry_seconds: float = 3.0
    opened: int = 0
    statuses: list[int] = field(default_factory=list)
    heartbeats: int = 0
    is_open: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        async with httpx.AsyncClient(timeout=60) as http:
            while True:
                with suppress(httpx.HTTPError):
                    await self._once(http)
                self.is_open.clear()
                await asyncio.sleep(self.retry_seconds)

    async def _once(self, http: httpx.AsyncClient) -> None:
        headers = dict(self.headers) | ({"Last-Event-ID": self.last_id} if self.last_id else {})
        async with http.stream("GET", self.url, headers=headers) as response:
            self.statuses.append(response.status_code)
            if response.status_code != 200:
                return
            event, data = "", ""
            async for line in response.aiter_lines():
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                match name:
                    case "id":
                        self.last_id = value
                    case "retry":
                        self.retry_seconds = int(value) / 1000
                    case "event":
                        event = value
                    case "data":
                        data = value
                if line == ":":
                    self.heartbeats += 1
                if not line:
                    if data:
                        self.seen.append(Seen(self.last_id, event, orjson.loads(data), time.monotonic()))
                    elif not self.is_open.is_set():
                        self.opened += 1
                        self.is_open.set()
                    event, data = "", ""

    def of(self, *types: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.event in types]

    async def until(self, count: int, *types: str, within_seconds: float = 10) -> list[Seen]:
        async with asyncio.timeout(within_seconds):
            while len(found := self.of(*types)) < count:
                await asyncio.sleep(0.01)
        return found


@asynccontextmanager
async def listening(url: str, headers: Mapping[str, str]) -> AsyncIterator[EventSource]:
    source = EventSource(url, headers)
    running = asyncio.create_task(source.run())
    try:
        async with asyncio.timeout(10):
            await source.is_open.wait()
        yield source
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
