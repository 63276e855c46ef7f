"""Which requests a fault rule fires on, and which rules are refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from app.sandbox.faults import MAX_RULES, Call, Faults, FaultSpec, TooManyFaults
from app.sandbox.gemini_errors import ANSWERS, ERRORS
from app.sandbox.whatsapp_errors import known_codes
from tests.support.fakes import FakeClock

SEND = Call("send", "106", recipient="16505551234", text="Bread at 7:00")
ASK = Call("generate", api_key="k1", model="gemini-3.5-flash-lite", text="bread?", system="Assistant of Maison Levain")


def rule(target: str = "whatsapp", **fields: Any) -> FaultSpec:
    return FaultSpec.model_validate({"target": target, "latency_ms": 1, **fields})


def fired(spec: FaultSpec, call: Call, times: int) -> list[bool]:
    faults = Faults()
    faults.add(spec)
    return [faults.pick(spec.target, call) is not None for _ in range(times)]


@pytest.mark.parametrize(
    ("match", "fires"),
    [
        ({}, True),
        ({"phone_number_id": "106"}, True),
        ({"phone_number_id": "107"}, False),
        ({"recipient": "+16505551234"}, True),
        ({"recipient": "16505551234"}, True),
        ({"recipient": "16505550000"}, False),
        ({"text_contains": "BREAD"}, True),
        ({"text_contains": "cake"}, False),
        ({"operation": "send"}, True),
        ({"operation": "read"}, False),
        ({"phone_number_id": "106", "text_contains": "cake"}, False),
    ],
)
def test_a_rule_fires_only_if_all_it_names_matches(match: dict[str, str], fires: bool) -> None:
    assert fired(rule(match=match), SEND, 1) == [fires]


@pytest.mark.parametrize(
    ("match", "fires"),
    [({"api_key": "k1"}, True), ({"api_key": "k2"}, False), ({"model": "gemini-3.5-flash-lite"}, True),
     ({"system_contains": "maison levain"}, True), ({"system_contains": "other shop"}, False)],
)  # fmt: skip
def test_gemini_rules_single_out_keys_models_and_businesses(match: dict[str, str], fires: bool) -> None:
    assert fired(rule("gemini", match=match), ASK, 1) == [fires]


def test_a_rule_leaves_other_targets_alone() -> None:
    faults = Faults()
    faults.add(rule("gemini"))
    assert faults.pick("whatsapp", SEND) is None


def test_skip_lets_the_first_pass_and_count_ends_it() -> None:
    assert fired(rule(skip=1, count=2), SEND, 5) == [False, True, True, False, False]


def test_rate_is_a_repeatable_share() -> None:
    hits = fired(rule(rate=0.3, seed=7), SEND, 1000)
    assert 250 < sum(hits) < 350
    assert hits == fired(rule(rate=0.3, seed=7), SEND, 1000)
    assert hits != fired(rule(rate=0.3, seed=8), SEND, 1000)


def test_the_first_rule_that_fires_wins_and_each_reports_what_it_saw() -> None:
    faults = Faults()
    first, second = faults.add(rule(count=1)), faults.add(rule())
    assert [faults.pick("whatsapp", SEND) for _ in range(3)] == [first, second, second]
    assert (first.matched, first.fired) == (3, 1)
    assert (second.matched, second.fired) == (2, 2)


def test_removing_a_rule_releases_what_it_holds() -> None:
    faults = Faults()
    fault = faults.add(rule(action="hang_before"))
    assert faults.remove(fault.id)
    assert fault.released.is_set()
    assert not faults.remove(fault.id)


def test_the_number_of_rules_is_bounded() -> None:
    faults = Faults()
    for _ in range(MAX_RULES):
        faults.add(rule())
    with pytest.raises(TooManyFaults):
        faults.add(rule())


def test_jitter_is_added_to_the_latency() -> None:
    fault = Faults().add(rule(latency_ms=100, jitter_ms=50))
    delays = [fault.delay_seconds() for _ in range(100)]
    assert 0.1 <= min(delays) < max(delays) <= 0.15


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({"target": "whatsapp"}, "nothing to do"),
        ({"target": "nobody", "latency_ms": 1}, "target"),
        ({"target": "whatsapp", "action": "explode"}, "action"),
        ({"target": "whatsapp", "error": "131056", "action": "drop_before"}, "exclude each other"),
        ({"target": "whatsapp", "error": "131099"}, "not a Cloud API error code"),
        ({"target": "whatsapp", "gemini": "internal"}, "does not apply"),
        ({"target": "gemini", "error": "131056"}, "does not apply"),
        ({"target": "gemini", "gemini": "grumpy"}, "quota_per_minute"),
        ({"target": "gemini", "gemini": "reply"}, "text belongs"),
        ({"target": "gemini", "gemini": "internal", "text": "x"}, "text belongs"),
        ({"target": "webhook", "action": "hang_before"}, "webhook takes"),
        ({"target": "whatsapp", "latency_ms": 1, "hang_seconds": 3}, "hang_seconds"),
        ({"target": "whatsapp", "latency_ms": 1, "rate": 0}, "rate"),
        ({"target": "whatsapp", "latency_ms": 1, "ratee": 1}, "ratee"),
        ({"target": "whatsapp", "latency_ms": 1, "match": {"phone": "1"}}, "phone"),
        ({"target": "gemini", "gemini": "quota_per_minute", "retry_delay": "soon"}, "retry_delay"),
        ({"target": "whatsapp", "http_status": 200}, "http_status"),
    ],
)
def test_a_wrong_rule_is_refused_with_the_reason(spec: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        FaultSpec.model_validate(spec)


def test_every_named_error_can_be_asked_for() -> None:
    for code in [*known_codes(), 200, 299, 132042]:
        assert FaultSpec(target="whatsapp", error=str(code)).error == str(code)
    for name in [*ERRORS, *(set(ANSWERS) - {"reply"})]:
        assert FaultSpec(target="gemini", gemini=name).gemini == name


async def test_a_rule_ends_by_itself_after_its_seconds_and_says_so() -> None:
    clock = FakeClock()
    faults = Faults(clock)
    fault = faults.add(rule(for_seconds=10, action="hang_before"))
    assert fault.hang_seconds() == 10
    await clock.sleep(9.9)
    assert faults.pick("whatsapp", SEND) is fault
    assert not fault.is_over
    await clock.sleep(0.2)
    assert faults.pick("whatsapp", SEND) is None
    assert fault.hang_seconds() == 0
    assert fault.to_json()["is_over"] is True


def test_a_rule_that_fired_as_often_as_it_should_is_over() -> None:
    faults = Faults()
    fault = faults.add(rule(count=1))
    assert fault.to_json()["is_over"] is False
    assert faults.pick("whatsapp", SEND) is fault
    assert fault.to_json()["is_over"] is True
