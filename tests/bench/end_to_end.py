"""From the webhook's 200 to the send arriving at the sandbox: one message at a time through one replica.

Both clocks are the machine's monotonic one. What the stand-ins take to answer is part of the figure.
"""

from __future__ import annotations

import asyncio
import socket
import time
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import orjson

from app.core.http_client import close_http_client, request
from app.demo.bakery import BAKERY
from app.localhost.fleet import LocalFleet
from app.sandbox.client import SandboxClient
from app.sandbox.webhooks import Person, encode_like_meta, envelope, messages_change, text
from tests.bench.child import BenchError
from tests.bench.machine import Stage
from tests.bench.report import Bar, percentile, table
from tests.bench.traffic import BUSINESS, http_request, post

ROUNDS = 3
MESSAGES = 200
WARM_UP = 40
CUSTOMERS = 50
PAUSE_SECONDS = 0.03
"""Between two messages: the first one's bookkeeping after the send is over, and the wait is registered."""
TIMEOUT_SECONDS = 10.0
QUESTIONS = ("Bonjour, quels sont vos horaires ?", "Do you take cards?", "Combien coûte une baguette ?", "Merci !")


def run(stage: Stage) -> tuple[list[str], list[Bar]]:
    with stage.fleet(DEBOUNCE_SECONDS="0") as fleet:
        rounds = asyncio.run(_rounds(fleet, stage.keys.app_secret))
        stages = _stages(fleet.replicas[0].log_file)
    delays = [[delay for delay, _ in samples] for samples in rounds]
    answers = [1000 * answer for samples in rounds for _, answer in samples]
    pooled = [delay for samples in delays for delay in samples]
    rows = {f"p{percent}": [1000 * percentile(samples, percent) for samples in delays] for percent in (50, 90, 99)}
    lines = [
        table(f"{len(pooled)} messages in {ROUNDS} rounds, from the webhook's 200 to the send", "ms", rows),
        f"  before that, from the POST to its 200: p50 {median(answers):.1f} ms",
        f"  where the time goes, by the replica's own log, p50: {stages}",
    ]
    return lines, [
        Bar("from the 200 to the send, p50", 1000 * percentile(pooled, 50), 8, " ms", at_most=True),
        Bar("from the 200 to the send, p99", 1000 * percentile(pooled, 99), 60, " ms", at_most=True),
    ]


async def _rounds(fleet: LocalFleet, app_secret: str) -> list[list[tuple[float, float]]]:
    sandbox = SandboxClient(fleet.sandbox.url)
    await sandbox.change_behaviour(statuses=False, pair_interval_seconds=0, messages_per_second=0)
    await _create_account(fleet)
    numbers = count()
    try:
        with socket.create_connection(("127.0.0.1", fleet.replicas[0].port), timeout=TIMEOUT_SECONDS) as connection:
            for _ in range(WARM_UP):
                await _exchange(sandbox, connection, app_secret, next(numbers))
            return [
                [await _exchange(sandbox, connection, app_secret, next(numbers)) for _ in range(MESSAGES)]
                for _ in range(ROUNDS)
            ]
    finally:
        await close_http_client()


async def _exchange(sandbox: SandboxClient, connection: socket.socket, app_secret: str, n: int) -> tuple[float, float]:
    """Seconds from the 200 to the send, and from the POST to the 200."""
    person = Person(f"3363{n % CUSTOMERS:07d}", f"Customer {n % CUSTOMERS}")
    message = text(person, QUESTIONS[n % len(QUESTIONS)])
    raw = http_request(encode_like_meta(envelope(messages_change(BUSINESS, [message], [person]))), app_secret)
    await sandbox.clear_record()
    arrival = asyncio.create_task(sandbox.wait(1, timeout_seconds=TIMEOUT_SECONDS, kind="send"))
    await asyncio.sleep(PAUSE_SECONDS)
    posted = time.monotonic()
    post(connection, raw)
    accepted = time.monotonic()
    (send,) = await arrival
    if send["to"] != person.wa_id:
        raise BenchError("somebody else's send arrived")
    return send["monotonic"] - accepted, accepted - posted


async def _create_account(fleet: LocalFleet) -> None:
    account = await call_api(
        fleet, "POST", "/accounts", name="Bench", slug="bench", phone_number_id=BUSINESS.phone_number_id,
        access_token="a-token-of-the-sandbox", verify_token="a-verify-token-of-the-bench",
    )  # fmt: skip
    await call_api(fleet, "PUT", f"/bot/profile?account_id={account['id']}", **BAKERY)


async def call_api(fleet: LocalFleet, method: str, path: str, *, replica: int = 0, **payload: Any) -> dict[str, Any]:
    response = await request(
        method,
        fleet.replicas[replica].url + path,
        timeout_seconds=TIMEOUT_SECONDS,
        headers={"authorization": f"Bearer {fleet.keys.admin}"},
        payload=payload or None,
    )
    if response.status >= 300:
        raise BenchError(f"{method} {path}: {response.status} {response.body.decode()}")
    answer: dict[str, Any] = response.json()
    return answer


def _stages(log_file: Path) -> str:
    """Medians of the stages in the canonical lines; `send` includes storing its outcome."""
    lines = [orjson.loads(line) for line in log_file.read_bytes().splitlines() if line.startswith(b"{")]
    replied = [line for line in lines if line.get("event") == "handled" and line["outcome"] == "replied"]
    names = replied[-1]["stages_ms"]
    stages = {name: median(line["stages_ms"][name] for line in replied[WARM_UP:]) for name in names}
    return " · ".join(f"{name} {milliseconds:.1f}" for name, milliseconds in stages.items())
