"""200 connections of a stranger, for `test_attacks.py`: a process of its own, so that what is measured is the replica.

python tests/support/attackers.py <port> <seconds> <name>
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping

CONNECTIONS = 200
SIGNED_LOOKING = b"X-Hub-Signature-256: sha256=" + b"0" * 64 + b"\r\n"
WEBHOOK = b"POST /webhook/whatsapp HTTP/1.1\r\nHost: x\r\n"
CHUNK = b"x" * 65536

Attack = Callable[[asyncio.StreamWriter], AsyncIterator[None]]


def endless(start: bytes, piece: bytes) -> Attack:
    async def attack(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
        writer.write(start)
        while True:
            writer.write(piece)
            await writer.drain()
            yield

    return attack


def stopping(start: bytes) -> Attack:
    """Sends `start` and then nothing."""

    async def attack(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
        writer.write(start)
        await writer.drain()
        while not writer.is_closing():
            await asyncio.sleep(0.05)
            yield

    return attack


ATTACKS: Mapping[str, Attack] = {
    "one endless header": endless(b"GET / HTTP/1.1\r\nA: ", CHUNK),
    "endless headers": endless(b"GET / HTTP/1.1\r\n", b"a: b\r\n" * 10_000),
    "half-open heads": stopping(b"GET / HTTP/1.1\r\nA: " + b"a" * 30_000),
    "bodies without a signature": stopping(WEBHOOK + b"Content-Length: 4000000\r\n\r\n" + b"x" * 3_990_000),
    "bodies that look signed": stopping(
        WEBHOOK + SIGNED_LOOKING + b"Content-Length: 4000000\r\n\r\n" + b"x" * 3_990_000
    ),
    "small bodies that look signed": stopping(
        WEBHOOK + SIGNED_LOOKING + b"Content-Length: 20000\r\n\r\n" + b"x" * 16_000
    ),
    "endless chunks": endless(
        WEBHOOK + SIGNED_LOOKING + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000
    ),
    "endless trailers": endless(
        WEBHOOK + SIGNED_LOOKING + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: ", CHUNK
    ),
    "bodies for the API": stopping(
        b"POST /accounts HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 990_000
    ),
    "endless body for no route": endless(b"POST /none HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
                                         b"10000\r\n" + CHUNK + b"\r\n"),
    "requests sent ahead": endless(b"", b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n" * 2000),
}  # fmt: skip


async def attacked(port: int, attack: Attack, until: float) -> None:
    """One attacker, who connects again whenever the replica has had enough."""
    while time.monotonic() < until:
        with contextlib.suppress(OSError, TimeoutError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + max(until - time.monotonic(), 0)):
                    async for _ in attack(writer):
                        if reader.at_eof():
                            break
            finally:
                writer.transport.abort()
        await asyncio.sleep(0.02)


async def main(port: int, seconds: float, name: str) -> None:
    until = time.monotonic() + seconds
    await asyncio.gather(*(attacked(port, ATTACKS[name], until) for _ in range(CONNECTIONS)))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]))
