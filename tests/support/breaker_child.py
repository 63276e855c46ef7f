"""One replica of an experiment, a process of its own: tasks that call an upstream through a circuit until told to stop.

    python -m tests.support.breaker_child <driver> <name> <tasks> <redis url> <upstream port> <policy as JSON>

Talks to `breaker_upstream.Upstream`; times are CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import random
import sys
import time
from typing import Any, Protocol

import uvloop

from app.core.errors import Unavailable

ATTEMPT_SECONDS = 0.25
PAUSE_SECONDS = 0.01
WATCH_SECONDS = 0.001


class Driver(Protocol):
    """A circuit breaker under test; `breaker_drivers` and the bench have some."""

    async def start(self, name: str, redis_url: str, policy: dict[str, Any]) -> None: ...
    async def call(self, fn: Any) -> Any: ...
    def is_rejection(self, exc: Exception) -> bool: ...
    def state(self) -> str: ...
    def round_trips(self) -> float: ...
    async def stop(self) -> None: ...


class Child:
    def __init__(self, driver: Driver, name: str, port: int) -> None:
        self.driver = driver
        self.name = name
        self.port = port
        self.slowest = 0.0
        self.errors: dict[str, int] = {}
        self.stopped = asyncio.Event()

    async def run(self, tasks: int, redis_url: str, policy: dict[str, Any]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        await self.driver.start(self.name, redis_url, policy)
        writer.write(f"hello {self.name}\n".encode())
        await reader.readline()  # go
        loops = [asyncio.create_task(self.caller()) for _ in range(tasks)]
        loops.append(asyncio.create_task(self.watch(writer)))
        while (order := (await reader.readline()).decode().strip()) not in ("stop", ""):
            if order == "reset":
                self.slowest = 0.0
            stats = {"slowest": self.slowest, "round_trips": self.driver.round_trips(), "errors": self.errors}
            writer.write(f"stats {json.dumps(stats)}\n".encode())
        self.stopped.set()
        await asyncio.wait(loops)
        await self.driver.stop()
        writer.close()

    async def watch(self, writer: asyncio.StreamWriter) -> None:
        seen = ""
        while not self.stopped.is_set():
            state = self.driver.state()
            if state != seen:
                seen = state
                writer.write(f"state {state} {time.monotonic()}\n".encode())
            await asyncio.sleep(WATCH_SECONDS)

    async def caller(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)

        async def exchange() -> None:
            nonlocal reader, writer
            if writer.is_closing():
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(f"call {self.name}\n".encode())
                async with asyncio.timeout(ATTEMPT_SECONDS):
                    answer = await reader.readline()
            except TimeoutError:
                writer.close()
                raise
            if answer != b"ok\n":
                raise Unavailable("upstream")

        while not self.stopped.is_set():
            began = time.monotonic()
            try:
                await self.driver.call(exchange)
            except Exception as exc:  # noqa: BLE001  counted by name
                kind = "rejected" if self.driver.is_rejection(exc) else type(exc).__name__
                self.errors[kind] = self.errors.get(kind, 0) + 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            await asyncio.sleep(PAUSE_SECONDS * (0.5 + random.random()))
        writer.close()


def main() -> None:
    driver, name, tasks, redis_url, port, policy = sys.argv[1:]
    module, _, kind = driver.partition(":")
    child = Child(getattr(importlib.import_module(module), kind)(), name, int(port))
    uvloop.run(child.run(int(tasks), redis_url, json.loads(policy)))


if __name__ == "__main__":
    main()
