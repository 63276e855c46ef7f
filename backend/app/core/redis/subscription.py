"""One channel on one connection of its own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

from redis.exceptions import RedisError

from app.core.errors import Unavailable
from app.core.redis.trouble import redis_words

BURST = 128
"""Messages heard in one turn of the loop: what is in the buffer is read without giving way."""


class Subscription:
    """What arrives on one channel. Its connection is never repaired: the first error ends it, and who subscribes anew
    knows that messages may have been missed (redis-py's PubSub reconnects without a sign). Made by `Door.subscribe`;
    `listening.py` keeps one open.

    Reading has no time limit of its own: a limit around every read costs several turns of the loop per message, and
    silence is normal. `check` finds out whether the connection still lives.
    """

    def __init__(self, pool: Any, connection: Any) -> None:
        self._pool = pool
        self._connection = connection
        self._pong = asyncio.Event()

    @classmethod
    async def open(cls, client: Any, channel: str) -> Subscription:
        """Returns when the server has acknowledged it. `client` must speak RESP2, where messages are replies. Raises
        redis-py's errors, without a time limit."""
        pool = client.connection_pool
        connection = await pool.get_connection()
        subscription = cls(pool, connection)
        try:
            await connection.send_command("SUBSCRIBE", channel)
            await connection.read_response(timeout=math.inf)
        except BaseException:
            await subscription.aclose()
            raise
        return subscription

    async def follow(
        self,
        hear: Callable[[bytes], object],
        checking: Coroutine[Any, Any, object],
        *,
        on_end: Callable[[], object],
    ) -> None:
        """Tell `hear` each message, and run `checking` beside it, until one of them raises: then `on_end` at once, and
        the error. Raises `Unavailable` when the connection is lost."""
        tasks = [asyncio.create_task(self._read(hear)), asyncio.create_task(checking)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            on_end()
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def check(self, *, within_seconds: float) -> None:
        """Returns when everything published before on this connection's server has been heard. Works beside `follow`.
        Raises `Unavailable`."""
        self._pong.clear()
        try:
            async with asyncio.timeout(within_seconds):
                if not self._connection.is_connected:
                    raise Unavailable("redis", "the subscription is closed")
                await self._connection.send_command("PING", check_health=False)
                await self._pong.wait()
        except TimeoutError:
            raise Unavailable("redis", "no answer on the subscription") from None
        except (RedisError, OSError) as exc:
            raise Unavailable("redis", redis_words(exc)) from exc

    async def aclose(self) -> None:
        await self._connection.disconnect(nowait=True)
        await self._pool.release(self._connection)

    async def _read(self, hear: Callable[[bytes], object]) -> None:
        while True:
            for _ in range(BURST):
                try:
                    reply = await self._connection.read_response(timeout=math.inf)
                except (RedisError, OSError) as exc:
                    raise Unavailable("redis", redis_words(exc)) from exc
                if reply[0] == b"message":
                    hear(reply[2])
                else:
                    self._pong.set()
            await asyncio.sleep(0)
