"""A TCP proxy that fails on demand."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit


class Proxy:
    """Between a client and the server of `url`; `self.url` leads through it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._parts = parts
        self._target = (parts.hostname or "", parts.port or 0)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.delay_seconds = 0.0
        """Of everything the server says."""
        self.refusing = False
        """Accepts and closes; `close_door` refuses before that."""
        self.accepted = 0
        """Connections so far."""
        self._port = 0

    @property
    def url(self) -> str:
        port = self._port
        user, at, _ = self._parts.netloc.rpartition("@")
        return urlunsplit(self._parts._replace(netloc=f"{user}{at}127.0.0.1:{port}"))

    def lead_to(self, port: int) -> None:
        """From now on. Connections that are open stay where they are, as behind a name that now resolves otherwise."""
        self._target = (self._target[0], port)

    def freeze(self) -> None:
        """Connections stay open and nothing passes, as on a half-open link."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def strand(self) -> None:
        """What is open now carries nothing any more and is not closed; new connections work."""
        self._flowing.clear()
        self._flowing = asyncio.Event()
        self._flowing.set()

    def cut(self, *, reset: bool = False) -> None:
        """Close every connection, or reset it."""
        for writer in self._writers:
            if reset:
                at_once = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            writer.transport.abort()

    def close_door(self) -> None:
        """Refuse new connections until `start`, and close what is open."""
        self._server.close()
        self.cut()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def aclose(self) -> None:
        self._server.close()
        self.thaw()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.accepted += 1
        try:
            if self.refusing:
                return
            to_server = await asyncio.open_connection(*self._target)
            self._writers.add(to_server[1])
            try:
                await asyncio.gather(self._pump(reader, to_server[1], 0), self._pump(to_server[0], writer, 1))
            finally:
                to_server[1].close()
                self._writers.discard(to_server[1])
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: int) -> None:
        flowing = self._flowing
        while data := await reader.read(65536):
            if direction and self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            await flowing.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(url)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.aclose()
