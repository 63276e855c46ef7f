"""LISTEN on a connection of its own."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import asyncpg

from app.core.failure_words import in_words

logger = logging.getLogger(__name__)

CACHE_CHANNEL = "chorus_cache"
OUTBOX_CHANNEL = "chorus_outbox"
CONNECT_SECONDS = 3.0
CHECK_SECONDS = 5.0
"""How long a connection that says nothing may take to answer."""
TROUBLE = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""The last is what a connection raises that the server closes in the middle of an answer (asyncpg 0.32)."""


class Notifications:
    """Notifications are a hint to look: they carry nothing, and one that is lost is made up for by the next look."""

    def __init__(self, database_url: str, channel: str = CACHE_CHANNEL) -> None:
        self._url = database_url
        self._channel = channel
        self._connection: asyncpg.Connection | None = None
        self._heard = asyncio.Event()
        self._is_lost = False
        self._is_muted = False

    async def wait(self, timeout_seconds: float) -> None:
        """Until notified, or `timeout_seconds`. At once when it has (dis)connected: something may be missing."""
        try:
            if self._connection is None or self._connection.is_closed():
                await self._connect()
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await self._heard.wait()
            if not self._heard.is_set():
                await self._connection.execute("select 1", timeout=CHECK_SECONDS)
            self._heard.clear()
        except TROUBLE as exc:
            self._drop()
            if not self._is_lost:
                self._is_lost = True
                logger.warning(
                    "no notifications from the database, looking now and then",
                    extra={"reason": in_words(exc), "channel": self._channel},
                )
            await asyncio.sleep(timeout_seconds)

    async def mute(self) -> bool:
        """Whether the database announces nothing from now on, because who listens looks by itself: until `unmute`, or
        the end of the connection. By the advisory lock of the channel's name."""
        try:
            if not self._is_muted and self._connection is not None:
                lock = "select pg_try_advisory_lock(hashtext($1))"
                self._is_muted = bool(await self._connection.fetchval(lock, self._channel))
        except TROUBLE:
            self._drop()
        return self._is_muted

    async def unmute(self) -> None:
        try:
            if self._is_muted and self._connection is not None:
                await self._connection.execute("select pg_advisory_unlock(hashtext($1))", self._channel)
            self._is_muted = False
        except TROUBLE:
            self._drop()

    async def aclose(self) -> None:
        """Idempotent; `wait` connects anew."""
        self._drop()

    async def _connect(self) -> None:
        self._drop()
        self._connection = await asyncpg.connect(self._url, timeout=CONNECT_SECONDS, command_timeout=CHECK_SECONDS)
        self._connection.add_termination_listener(self._hear)
        await self._connection.add_listener(self._channel, self._hear)
        if self._is_lost:
            self._is_lost = False
            logger.warning("notifications from the database are back", extra={"channel": self._channel})

    def _hear(self, *_: object) -> None:
        self._heard.set()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._is_muted = False
        if connection is not None:
            connection.terminate()
