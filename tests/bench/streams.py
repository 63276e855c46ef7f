"""500 open streams of events on one replica: what they cost, and how late an event is. Each of 100 accounts has five
readers and five events a second, told as another replica tells them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from app.core.feed import PUT
from app.core.redis.door import Door
from tests.bench.machine import Stage, process_seconds
from tests.bench.report import Bar, number, percentile

ACCOUNTS, READERS = 100, 5
EVENTS_PER_SECOND = 5.0
"""For each account."""
SECONDS = 10.0
OPEN_SECONDS = 30.0
AT_ONCE = 50
"""Streams that are being opened at the same time."""
CPU_BAR, KILOBYTES_BAR = 10.0, 60.0
_FACTS = (
    b'{"type":"message.received","account_id":"%b","conversation_id":"6f0c0d9e-0000-4000-8000-000000000000","told":"%f",'
    b'"message_id":"6f0c0d9e-0000-4000-8000-000000000001","direction":"inbound","author":"customer","status":"received"}'
)


def run(stage: Stage) -> tuple[list[str], list[Bar]]:
    with stage.fleet(LOG_LEVEL="WARNING") as fleet:
        (replica,) = fleet.replicas
        assert replica.pid is not None
        return asyncio.run(_run(stage, replica.url, replica.pid, fleet.keys.admin))


async def _run(stage: Stage, url: str, pid: int, key: str) -> tuple[list[str], list[Bar]]:
    accounts = await _accounts(stage)
    door = Door.to(stage.redis_url, max_connections=10)
    idle = await _share(pid, _nothing())
    before = _kilobytes(pid)
    lateness: list[float] = []
    opened: list[str] = []
    turns = asyncio.Semaphore(AT_ONCE)
    readers = [
        asyncio.create_task(_read(url, key, account, turns, opened, lateness))
        for account in accounts
        for _ in range(READERS)
    ]
    async with asyncio.timeout(OPEN_SECONDS):
        while len(opened) < len(readers):
            await asyncio.sleep(0.1)
    quiet = await _share(pid, _nothing())
    busy = await _share(pid, _tell(door, accounts))
    await asyncio.sleep(1)  # what is on its way
    each = (_kilobytes(pid) - before) / len(readers)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    await door.aclose()
    p50, p95 = percentile(lateness, 50), percentile(lateness, 95)
    wanted = ACCOUNTS * READERS * EVENTS_PER_SECOND * SECONDS
    lines = [
        f"{len(readers)} streams of {ACCOUNTS} accounts, {EVENTS_PER_SECOND:g} events a second each, {SECONDS:g} s",
        f"  CPU without streams {idle:.1f} %, with silent ones {quiet:.1f} %, with events {busy:.1f} % of a core",
        f"  {number(each)} kB of memory a stream; {len(lateness):,} of {wanted:,.0f} events read",
        f"  an event is read {number(1000 * p50)} ms (p50), {number(1000 * p95)} ms (p95) after it was told",
    ]
    return lines, [
        Bar("500 streams with events, CPU more than without", busy - idle, CPU_BAR, " % of a core", at_most=True),
        Bar("memory of a stream", each, KILOBYTES_BAR, " kB", at_most=True),
    ]


async def _accounts(stage: Stage) -> list[str]:
    connection = await asyncpg.connect(stage.database_url)
    try:
        rows = await connection.fetch(
            "insert into whatsapp_accounts (name, slug, phone_number_id, access_token, verify_token)"
            " select 'Streams ' || n, 'streams-' || n, '77000' || n, 'cipher', 'verify' from generate_series(1, $1) n"
            " returning id", ACCOUNTS,
        )  # fmt: skip
    finally:
        await connection.close()
    return [str(row["id"]) for row in rows]


async def _read(
    url: str, key: str, account: str, turns: asyncio.Semaphore, opened: list[str], lateness: list[float]
) -> None:
    """As little as can be read of a stream."""
    where = urlsplit(url)
    head = f"GET /events?account_id={account} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
    async with turns:
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(head.encode())
        while not (await reader.readuntil(b"\n")).startswith(b"id: "):
            pass
        opened.append(account)
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            line = await reader.readuntil(b"\n")
            if line.startswith(b"data: ") and b'"told":"' in line:  # and none of the replica's own
                told = float(line.partition(b'"told":"')[2].partition(b'"')[0])
                lateness.append(time.time() - told)


async def _tell(door: Door, accounts: Sequence[str]) -> None:
    """Spread over each second."""
    started, total = time.monotonic(), round(len(accounts) * EVENTS_PER_SECOND * SECONDS)
    for n in range(total):
        due = started + n / (len(accounts) * EVENTS_PER_SECOND)
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        account = accounts[n % len(accounts)]
        data = _FACTS % (account.encode(), time.time())
        args = ["chorus:live", 1000, account, 1, b"message.received", data]
        await door.run(PUT, [f"chorus:live:{{{account}}}"], args)


async def _nothing() -> None:
    await asyncio.sleep(SECONDS)


async def _share(pid: int, meanwhile: asyncio.Future[None] | object) -> float:
    """CPU of the process while something happens, in percent of a core."""
    started, used = time.monotonic(), process_seconds(pid)
    await meanwhile  # type: ignore[misc]  # one of the coroutines above
    return 100 * (process_seconds(pid) - used) / (time.monotonic() - started)


def _kilobytes(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4.096
