"""An upstream that answers as told and remembers every call, and the processes that call it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LATENCY_SECONDS = 0.01


@dataclass
class Call:
    child: str
    began: float
    ended: float = 0.0
    ok: bool = False


@dataclass(eq=False)
class Child:
    """A process of `breaker_child`; `states` with the times at which it entered them."""

    name: str
    process: asyncio.subprocess.Process
    states: list[tuple[str, float]] = field(default_factory=list)
    stats: dict[str, Any] = field(default_factory=dict)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    writer: asyncio.StreamWriter | None = None

    @property
    def state(self) -> str:
        return self.states[-1][0] if self.states else "unknown"

    async def ask(self, what: str = "stats") -> dict[str, Any]:
        self.answered.clear()
        self.tell(what)
        async with asyncio.timeout(10):
            await self.answered.wait()
        return self.stats

    def tell(self, order: str) -> None:
        assert self.writer is not None
        self.writer.write(f"{order}\n".encode())


class Upstream:
    """`mode`: ok, fail (an answer says no), hang (no answer), slow (no caller waits so long); per child if need be."""

    def __init__(self) -> None:
        self.mode = "ok"
        self.latency_seconds = LATENCY_SECONDS
        self.mode_of: dict[str, str] = {}
        self.calls: list[Call] = []
        self.running = self.most = 0
        self.children: dict[str, Child] = {}
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while line := (await reader.readline()).decode().strip():
                word, _, rest = line.partition(" ")
                if word == "call":
                    await self.answer(rest, writer)
                elif word == "hello":
                    self.children[rest].writer = writer
                    self.children[rest].ready.set()
                    await self.follow(self.children[rest], reader)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def answer(self, name: str, writer: asyncio.StreamWriter) -> None:
        mode = self.mode_of.get(name, self.mode)
        call = Call(name, time.monotonic())
        self.calls.append(call)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if mode == "hang":
                await asyncio.Event().wait()
            await asyncio.sleep(1.0 if mode == "slow" else self.latency_seconds)
            call.ok = mode in ("ok", "slow")
            call.ended = time.monotonic()
            writer.write(b"ok\n" if call.ok else b"no\n")
            await writer.drain()
        finally:
            self.running -= 1

    async def follow(self, child: Child, reader: asyncio.StreamReader) -> None:
        while line := (await reader.readline()).decode().strip():
            word, _, rest = line.partition(" ")
            if word == "state":
                state, at = rest.split()
                child.states.append((state, float(at)))
            elif word == "stats":
                child.stats = json.loads(rest)
                child.answered.set()

    async def start_child(
        self, name: str, *, tasks: int, redis_url: str, policy: Mapping[str, Any],
        driver: str = "tests.support.breaker_drivers:Chorus", python: str = sys.executable,
    ) -> Child:  # fmt: skip
        paths = [*(str(ROOT / part) for part in ("backend", ".")), os.environ.get("PYTHONPATH", "")]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
        process = await asyncio.create_subprocess_exec(
            python, "-m", "tests.support.breaker_child", driver, name, str(tasks), redis_url, str(self.port),
            json.dumps(policy), env=env, cwd=ROOT,
        )  # fmt: skip
        child = self.children[name] = Child(name, process)
        return child

    async def go(self, children: Sequence[Child]) -> None:
        for child in children:
            async with asyncio.timeout(20):
                await child.ready.wait()
        for child in children:
            child.tell("go")

    def failures(self) -> list[Call]:
        return sorted((call for call in self.calls if call.ended and not call.ok), key=lambda call: call.ended)

    async def until(self, happened: Callable[[], bool], *, timeout_seconds: float = 10.0) -> float:
        """The time at which it was seen."""
        async with asyncio.timeout(timeout_seconds):
            while not happened():
                await asyncio.sleep(0.001)
        return time.monotonic()

    def cancel(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()


@asynccontextmanager
async def running_upstream() -> AsyncIterator[Upstream]:
    """Children still there at the end are stopped."""
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        for child in upstream.children.values():
            if child.process.returncode is None:
                child.process.kill()
        for child in upstream.children.values():
            await child.process.wait()
        server.close()
        upstream.cancel()
        await asyncio.sleep(0)
