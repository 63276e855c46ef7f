"""Read receipts with "typing…": whatever happens to them, customers are answered as if nothing had."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Any

import pytest

from app.core.circuit_breaker import whatsapp_account_breakers, whatsapp_circuit_breaker
from app.sandbox import webhooks as wa
from tests.support.office import MakeOffice, Office

logger = logging.getLogger(__name__)

PER_SECOND = 20
MODEL_MS = 200
BAR = 1.5
FAULTS: dict[str, dict[str, Any]] = {
    "error": {"error": "131000"},
    "hang": {"action": "hang_before"},
    "drop": {"action": "drop_before"},
    "reset": {"action": "refuse"},
    "late": {"latency_ms": 2500},
}


async def test_the_customer_sees_that_somebody_types(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    message = wa.text(person, "Where are you?")
    # A replica that is busy shows them only while the answer is not there yet (`Courtesy`).
    fault = await office.control.add_fault("gemini", action="hang_before")
    await office.receive(person, message)
    (read,) = await office.control.wait(1, kind="read")
    await office.control.remove_fault(fault)
    assert read["wamid"] == message["id"]
    assert read["body"]["typing_indicator"] == {"type": "text"}


async def answer_seconds(office: Office, seconds: float) -> list[float]:
    """`PER_SECOND` customers write for so long; how long each waited for the answer. Fails unless all were answered."""
    start, waited = time.monotonic(), {}
    people = [office.person() for _ in range(int(PER_SECOND * seconds))]
    for number, person in enumerate(people):
        await asyncio.sleep(max(0.0, start + number / PER_SECOND - time.monotonic()))  # the load is the subject
        waited[person.wa_id] = time.monotonic()
        await office.receive(person, wa.text(person, "Do you have vegan pastries?"))
    await office.until_idle(timeout_seconds=60)
    answered = {entry["to"]: entry["monotonic"] for entry in await office.control.record(kind="send", processed=True)}
    assert waited.keys() <= answered.keys(), "every message is answered"
    return sorted(answered[wa_id] - written for wa_id, written in waited.items())


async def ratio_of_p95(office: Office, fault: dict[str, Any], seconds: float, healthy: list[float]) -> float:
    """With the fault to without it. The better of three: a busy machine makes either run slow, the fault only one."""
    ratio = math.inf
    for _ in range(3):
        healthy = healthy if math.isinf(ratio) else await answer_seconds(office, seconds)
        rule = await office.control.add_fault("whatsapp", match={"operation": "read"}, **fault)
        troubled = await answer_seconds(office, seconds)
        await office.control.remove_fault(rule)
        at = int(0.95 * len(healthy))
        logger.info("p95 %.0f ms without, %.0f ms with %s", healthy[at] * 1000, troubled[at] * 1000, fault)
        for breaker in (whatsapp_circuit_breaker, whatsapp_account_breakers.get(office.account.phone_number_id)):
            assert (breaker.snapshot().state, breaker.snapshot().failure_count) == ("closed", 0)
        ratio = min(ratio, troubled[at] / healthy[at])
        if ratio < BAR:
            break
    return ratio


async def thinking_office(make_office: MakeOffice) -> Office:
    office = await make_office()
    await office.control.add_fault("gemini", latency_ms=MODEL_MS)
    await answer_seconds(office, 1)  # connections, scripts and plans are made
    return office


async def test_receipts_in_trouble_delay_no_answer(make_office: MakeOffice) -> None:
    office = await thinking_office(make_office)
    healthy = await answer_seconds(office, 2)
    for fault in FAULTS.values():
        assert await ratio_of_p95(office, fault, 2, healthy) < BAR, fault


@pytest.mark.timed
@pytest.mark.timeout(500)
@pytest.mark.parametrize("fault", FAULTS)
async def test_receipts_in_trouble_for_a_minute_delay_no_answer(make_office: MakeOffice, fault: str) -> None:
    office = await thinking_office(make_office)
    assert await ratio_of_p95(office, FAULTS[fault], 60, await answer_seconds(office, 60)) < BAR
