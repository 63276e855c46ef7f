"""Signed webhooks of every shape that hypothesis makes of real ones: no answer of 5xx, and the worker is done with each
event, as a dead letter at worst. A short look in every run of the suite; `make fuzz` sends FUZZ_PAYLOADS (30,000)."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.sandbox import webhooks as wa
from app.sandbox.webhooks import signed_headers
from tests.support.field_cases import FOLDER, case
from tests.support.replica import NUMBER, NUMBERS_TOKEN, Replica, one_replica
from tests.support.serving import APP_SECRET

IS_LONG = "FUZZ_SECONDS" in os.environ
PAYLOADS = int(os.environ.get("FUZZ_PAYLOADS", "30000" if IS_LONG else "300"))
SENDERS = 8
IDLE_SECONDS = 600 if IS_LONG else 90
BUSINESS = wa.Business(NUMBER)
PEOPLE = [wa.Person(f"3361234{n:04d}", f"Person {n}") for n in range(50)]


def _own_shapes() -> Iterator[Any]:
    for person in PEOPLE[:3]:
        for message in (
            wa.text(person, "Bonjour"), wa.media(person, "image"), wa.media(person, "audio", voice=True),
            wa.location(person, 45.7, 4.8), wa.contact_cards(person, "Ada"), wa.button_reply(person, "a", "Yes"),
            wa.list_reply(person, "a", "Yes"), wa.form_reply(person, {"a": 1}), wa.broken_interactive(person),
            wa.template_button(person, "a", "Yes"), wa.reaction(person, "wamid.x", "+"), wa.order(person, [{"a": 1}]),
            wa.number_changed(person, "33699999999"), wa.edit(person, "wamid.x", "Bonsoir"), wa.unsupported(person),
        ):  # fmt: skip
            yield wa.envelope(wa.messages_change(BUSINESS, [message], [person]))
        for name in ("sent", "delivered", "read", "played", "failed", "deleted"):
            yield wa.envelope(wa.statuses_change(BUSINESS, [wa.status("wamid.x", name, recipient=person.wa_id or "")]))
        yield wa.envelope(wa.echoes_change(BUSINESS, [wa.echo(BUSINESS, person.wa_id or "", "From the phone")]))
    yield wa.envelope(wa.errors_change(BUSINESS))
    yield wa.dashboard_test()


SHAPES = [*_own_shapes(), *(case(path.stem, NUMBER) for path in sorted(FOLDER.glob("*.json")))]


def nested(depth: int, *, as_object: bool) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value} if as_object else [value]
    return value


ODD = st.one_of(
    st.sampled_from(
        [
            None, True, False, 0, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 1.5, 1e308, float("nan"),
            float("inf"), "", " ", "0", "-1", "9" * 30, "9" * 5000, "1e400", "99999999999999", "-99999999999", "\x00",
            "\ud800", "\udc00x", "a\u0000b", "\u202e", "é" * 5000, "wamid." + "x" * 3000, ":", "#", "a:b#c", [], {},
            [None], [[]], [{}], {"": ""}, {"\x00": 1}, {"body": {}}, {"id": None}, nested(63, as_object=True),
            nested(100, as_object=False), nested(254, as_object=True), nested(300, as_object=False),
        ]
    ),
    st.integers(), st.floats(), st.text(max_size=40), st.booleans(),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
        max_leaves=6,
    ),
)  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in it."""
    found, left = [], [value]
    while left:
        each = left.pop()
        keys: Sequence[Any] = list(each) if isinstance(each, dict) else range(len(each))
        for key in keys:
            found.append((each, key))
            if isinstance(each[key], dict | list):
                left.append(each[key])
    return found


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    payload = copy.deepcopy(draw(st.sampled_from(SHAPES)))
    for _ in range(draw(st.integers(0, 4))):
        found = places(payload)
        if not found:
            break
        container, key = draw(st.sampled_from(found))
        match draw(st.sampled_from(["odd", "odd", "gone", "twice", "wrapped", "renamed", "elsewhere"])):
            case "odd":
                container[key] = copy.deepcopy(draw(ODD))
            case "gone":
                del container[key]
            case "twice" if isinstance(container, list):
                container.append(copy.deepcopy(container[key]))
            case "wrapped":
                container[key] = [container[key]] if draw(st.booleans()) else {"value": container[key]}
            case "renamed" if isinstance(container, dict):
                container[draw(st.text(max_size=10))] = container.pop(key)
            case _:
                other, there = draw(st.sampled_from(found))
                container[key] = copy.deepcopy(other[there])
    raw = json.dumps(payload).encode()
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=3)) + raw[at + draw(st.integers(0, 3)) :]
    return raw


def made_up() -> list[bytes]:
    """All of them before the first is sent: hypothesis wants the process' random numbers for itself."""
    found: list[bytes] = []

    @settings(
        max_examples=PAYLOADS, deadline=None, database=None, derandomize=not IS_LONG, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(bodies())
    def one(raw: bytes) -> None:
        found.append(raw)

    one()
    return found


def is_json(raw: bytes) -> bool:
    try:
        json.loads(raw)
    except ValueError:
        return False
    return True


async def send_all(api: Replica, raws: Sequence[bytes]) -> Counter[int]:
    """Status -> how many; every answer is asserted."""
    seen: Counter[int] = Counter()
    left = list(raws)

    async def send() -> None:
        while left:
            raw = left.pop()
            headers = signed_headers(APP_SECRET, raw)
            answer = await api.http.post(f"{api.url}/webhook/whatsapp", content=raw, headers=headers)
            seen[answer.status_code] += 1
            assert answer.status_code in (200, 400), (answer.status_code, answer.text, raw)
            assert answer.status_code == 200 or not is_json(raw), raw

    await asyncio.gather(*(send() for _ in range(SENDERS)))
    return seen


async def until_idle(api: Replica) -> dict[str, Any]:
    deadline = time.monotonic() + IDLE_SECONDS
    while (queue := await api("GET", "/admin/queue"))["pending"]:
        assert time.monotonic() < deadline, queue
        await asyncio.sleep(0.05)
    return dict(queue)


async def reasons_of_dead_letters(api: Replica) -> Counter[str]:
    reasons: Counter[str] = Counter()
    cursor = ""
    while True:
        page = await api("GET", f"/admin/dead-letters?limit=200{cursor}")
        reasons.update(letter["reason"][:60] for letter in page["items"])
        if page["next_cursor"] is None:
            return reasons
        cursor = f"&cursor={page['next_cursor']}"


@pytest.mark.timeout(0 if IS_LONG else 300)
async def test_whatever_is_signed_is_answered_and_handled(
    valkey_url: str, store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    raws = made_up()
    quick: dict[str, Any] = {"debounce_seconds": 0, "whatsapp_messages_per_second": 1000}
    async with one_replica(valkey_url, store_url, **quick) as api:
        await all_are_handled(api, raws, caplog)


async def all_are_handled(api: Replica, raws: Sequence[bytes], caplog: pytest.LogCaptureFixture) -> None:
    await api.new_account(phone_number_id=NUMBER, access_token=NUMBERS_TOKEN)
    caplog.set_level("ERROR")
    seen = await send_all(api, raws)
    queue = await until_idle(api)
    reasons = await reasons_of_dead_letters(api)
    sys.stdout.write(f"signed webhooks: {dict(seen)}, dead letters: {dict(reasons)}\n")
    assert seen[200] > len(raws) * 0.8
    assert (await api("GET", "/health/live")) == {"status": "alive"}
    assert queue["dead"] == reasons.total()
    bugs = [record.getMessage() for record in caplog.records if record.exc_info and record.name.startswith("app")]
    assert bugs == []
