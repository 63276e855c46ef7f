"""Replicas of the cache as real processes (`cache_child.py`), each behind a proxy that can be made to fail."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any

from tests.support.proxy import Proxy, proxied

ROOT = Path(__file__).resolve().parents[2]
ANSWER_SECONDS = 20.0
STOP_SECONDS = 10.0


class CacheProcess:
    def __init__(self, process: asyncio.subprocess.Process, proxy: Proxy) -> None:
        self.proxy = proxy
        self._process = process
        self._numbers = count()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._events: asyncio.Queue[str] = asyncio.Queue()
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, stack: AsyncExitStack, redis_url: str, database_url: str) -> CacheProcess:
        proxy = await stack.enter_async_context(proxied(redis_url))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.cache_child", proxy.url, database_url, cwd=ROOT,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        replica = cls(process, proxy)
        stack.push_async_callback(replica.stop)
        while not await replica.ask("ready"):
            await asyncio.sleep(0.02)
        return replica

    async def ask(self, do: str, **arguments: Any) -> Any:
        """The answer, within `ANSWER_SECONDS`."""
        number = self.tell(do, **arguments)
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self._answers[number]

    def tell(self, do: str, **arguments: Any) -> int:
        """Without waiting for an answer; there may never be one."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, "do": do, **arguments}).encode() + b"\n")
        return number

    async def event(self) -> str:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self._events.get()

    async def read(self, account: str) -> str:
        hours: str = await self.ask("read", account=account)
        return hours

    async def until_read(self, account: str, hours: str, *, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while await self.read(account) != hours:
                await asyncio.sleep(0.005)

    async def until_trusted(self, trusted: bool, *, seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while await self.ask("ready") is not trusted:
                await asyncio.sleep(0.01)

    def freeze(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        if self._process.returncode is None:
            self.thaw()
            assert self._process.stdin is not None
            self._process.stdin.close()
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        await self._listening
        for answer in self._answers.values():
            answer.cancel()

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            said = json.loads(line)
            if "event" in said:
                self._events.put_nowait(said["event"])
            else:
                self._answers[said["id"]].set_result(said["answer"])
