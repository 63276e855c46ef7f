"""A connection's troubles are redis-py's own errors, whatever loop is under it."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from redis.exceptions import ConnectionError as RedisConnectionError

from app.core.redis.client import connect


def test_writing_to_a_connection_that_was_closed_a_moment_ago_is_a_connection_error() -> None:
    async def write_after_close() -> None:
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        client = connect(f"redis://{host}:{port}", protocol=2)
        connection = client.connection_pool.make_connection()
        await connection._connect()  # without the exchange of greetings, which needs a server that answers
        connection._writer.transport.abort()
        try:
            with pytest.raises(RedisConnectionError):
                await connection.send_command("PING", check_health=False)
        finally:
            await client.aclose()
            server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(write_after_close())
