"""A whole replica on a real socket in this process, and an outside world that only counts."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Generator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from app.api.http_protocol import BoundedServer, ConnectionLimits, bounded
from app.core.secrets import TokenCipher
from app.settings import Settings
from tests.support.fakes import peer, read_request, response

OPERATOR_KEY = "operator-of-the-test-suite"
APP_SECRET = "s" * 16
LIMITS = ConnectionLimits()


class _Server(BoundedServer):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


@contextlib.asynccontextmanager
async def served(
    app: ASGIApp, limits: ConnectionLimits = LIMITS, *, look_seconds: float = 1.0, **config: Any
) -> AsyncIterator[str]:
    """Its base URL. The app's lifespan is over when this returns."""
    usual = {"port": 0, "log_config": None, "access_log": False, "lifespan": "on", "timeout_keep_alive": 75}
    server = _Server(uvicorn.Config(app, **usual | bounded(limits) | config))
    server.look_seconds = look_seconds
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(30):
            while not server.started:
                if serving.done():
                    await serving
                await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


class OutsideWorld:
    """WhatsApp and Gemini: they answer everything, and count."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: Counter[str] = Counter()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            line, _, _ = await read_request(reader)
            self.calls[line.split()[1]] += 1
            writer.write(response(b"{}"))
            await writer.drain()


@contextlib.asynccontextmanager
async def outside_world() -> AsyncIterator[OutsideWorld]:
    world = OutsideWorld()
    async with peer(world.handle) as world.url:
        yield world


def settings_of(url: str, redis_url: str, database_url: str, **more: Any) -> Settings:
    given: dict[str, Any] = {
        "_env_file": None, "redis_url": redis_url, "database_url": database_url, "meta_app_secret": APP_SECRET,
        "gemini_api_key": "k", "encryption_key": TokenCipher.generate_key(), "admin_api_key": OPERATOR_KEY,
        "whatsapp_base_url": url, "gemini_base_url": url, "drain_seconds": 0,
    }  # fmt: skip
    assert more.keys() <= {"_env_file", *Settings.model_fields}, "a setting that does not exist would be ignored"
    return Settings(**given | more)
