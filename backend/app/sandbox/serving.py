"""The sandbox's server: uvicorn with the one thing ASGI lacks, dropping a TCP connection without an answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Generator
from typing import Protocol, cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from app.sandbox.exchange import CLOSE_EXTENSION

BACKLOG = 2048
_RST_ON_CLOSE = struct.pack("ii", 1, 0)


class _HttpProtocol(Protocol):
    """What uvicorn's implementations have in common beyond `asyncio.Protocol`."""

    app: ASGIApp


class _ClosableProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]  # uvicorn chooses the base at run time
    """Hands every request a function that ends its connection, as an ASGI extension."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        protocol = cast(_HttpProtocol, self)
        app = protocol.app

        def close(*, reset: bool) -> None:
            if reset:
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
            transport.abort()

        async def closable(scope: Scope, receive: Receive, send: Send) -> None:
            scope["extensions"] = {**scope.get("extensions", {}), CLOSE_EXTENSION: close}
            await app(scope, receive, send)

        protocol.app = closable


class SandboxServer(uvicorn.Server):
    """`let_go` is called before it waits for requests to end."""

    def __init__(self, app: ASGIApp, *, let_go: Callable[[], None], handle_signals: bool) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_ClosableProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=2,
            )
        )
        self._ready = asyncio.Event()
        self._let_go = let_go
        self._handle_signals = handle_signals

    async def until_ready(self, serving: asyncio.Task[None]) -> None:
        """Until it listens; if `serving` ends before that, its error."""
        ready = asyncio.ensure_future(self._ready.wait())
        await asyncio.wait((ready, serving), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if serving.done():
            await serving

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._let_go()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        if not self._handle_signals:
            yield
            return
        with super().capture_signals():
            yield
            # uvicorn would raise the signal again and end the process before its callers can clean up.
            self._captured_signals.clear()


def listen(host: str, port: int) -> socket.socket:
    """Raises `OSError` when the port is taken; port 0 takes a free one."""
    # asyncio disables Nagle's algorithm only on sockets that say they are TCP; else an answer can take 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
