"""The verdict on an account, by what Meta said: and what Meta did not say makes nothing invalid."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.domain.account_health import (
    Inspection,
    Judgement,
    MetaSaid,
    NotTold,
    NumberFacts,
    Problem,
    Refused,
    State,
    SubscriptionFacts,
    TokenFacts,
    Verdict,
    judge,
)
from app.domain.models import BlockReason

NOW = datetime(2026, 11, 28, tzinfo=UTC)
SCOPES = ("whatsapp_business_management", "whatsapp_business_messaging")
TOKEN = TokenFacts(is_valid=True, scopes=SCOPES, app_id="1029384756")
NUMBER = NumberFacts("15550783881", "Shop", "GREEN", "TIER_1K", "CONNECTED", "APPROVED", "STANDARD", "AVAILABLE")
WELL = Inspection(TOKEN, NUMBER, SubscriptionFacts(("1029384756",)), "1029384756", "102290129340398")
EXPIRED = Refused(MetaSaid("Error validating access token", 190, 463), BlockReason.TOKEN_INVALID)
GONE = Refused(MetaSaid("does not exist", 100, 33), BlockReason.NUMBER_NOT_REGISTERED)
AWAY = NotTold("whatsapp: ConnectFailed: ConnectError")
DEAD = replace(TOKEN, is_valid=False, said=MetaSaid("Session has expired", 190, 463))


def seen(**changes: object) -> Judgement:
    return judge(replace(WELL, **changes), NOW)


def number(**changes: object) -> Judgement:
    return seen(number=replace(NUMBER, **changes))


def test_all_well() -> None:
    found = seen()
    assert (found.verdict, found.reason, found.failure, found.block) == (Verdict.HEALTHY, None, None, None)
    report = found.report
    assert [report.token.state, report.number.state, report.subscription.state] == [State.OK] * 3
    assert (report.token.valid, report.token.scopes, report.subscription.subscribed) == (True, SCOPES, True)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (seen(token=DEAD, number=EXPIRED), Problem.TOKEN_INVALID),
        (seen(token=EXPIRED, number=EXPIRED), Problem.TOKEN_INVALID),
        (seen(token=AWAY, number=EXPIRED, subscription=AWAY), Problem.TOKEN_INVALID),
        (seen(token=DEAD, number=AWAY), Problem.TOKEN_INVALID),
        (seen(token=replace(TOKEN, expires_at=NOW), number=AWAY), Problem.TOKEN_INVALID),
        (seen(token=replace(TOKEN, scopes=SCOPES[:1])), Problem.PERMISSION_MISSING),
        (seen(number=GONE), Problem.NUMBER_NOT_REGISTERED),
        (seen(number=Refused(MetaSaid("", 10), BlockReason.PERMISSION_MISSING)), Problem.PERMISSION_MISSING),
        (seen(number=Refused(MetaSaid("", 368), BlockReason.POLICY_VIOLATION)), Problem.POLICY_VIOLATION),
        (number(status="BANNED"), Problem.ACCOUNT_LOCKED),
        (number(status="DISCONNECTED"), Problem.NUMBER_NOT_REGISTERED),
        (number(can_send_message="BLOCKED"), Problem.ACCOUNT_LOCKED),
        (seen(subscription=SubscriptionFacts(())), Problem.NOT_SUBSCRIBED),
        (seen(subscription=SubscriptionFacts(("5555555",))), Problem.NOT_SUBSCRIBED),
    ],
)  # fmt: skip
def test_what_keeps_an_account_from_its_work(found: Judgement, reason: Problem) -> None:
    assert (found.verdict, found.reason, found.failure) == (Verdict.UNHEALTHY, reason, None)
    assert found.block == (None if reason is Problem.NOT_SUBSCRIBED else BlockReason(reason.value))


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (seen(token=replace(TOKEN, expires_at=NOW + timedelta(days=6))), Problem.TOKEN_EXPIRES),
        (seen(token=replace(TOKEN, scopes=SCOPES[1:])), Problem.MANAGEMENT_MISSING),
        (number(quality_rating="RED"), Problem.QUALITY_LOW),
        (number(name_status="DECLINED"), Problem.NAME_DECLINED),
        (number(status="RESTRICTED"), Problem.NUMBER_RESTRICTED),
        (number(can_send_message="LIMITED"), Problem.NUMBER_RESTRICTED),
    ],
)  # fmt: skip
def test_what_a_person_should_look_at(found: Judgement, reason: Problem) -> None:
    assert (found.verdict, found.reason, found.block) == (Verdict.ATTENTION, reason, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"token": AWAY, "number": AWAY, "subscription": AWAY}, {"number": AWAY}, {"subscription": AWAY},
        {"number": AWAY, "token": EXPIRED}, {"number": EXPIRED},
        {"number": Refused(MetaSaid("Unknown path components", 2500))},
    ],
)  # fmt: skip
def test_a_check_that_could_not_be_made_has_no_verdict_and_calls_nothing_invalid(changes: dict[str, object]) -> None:
    found = seen(**changes)
    assert found.verdict is None
    assert found.failure
    assert (found.reason, found.block, found.report.problems) == (None, None, ())
    assert found.report.token.valid is not False


@pytest.mark.parametrize("token", [DEAD, EXPIRED, AWAY, Refused(MetaSaid("not this app's", 100))])
def test_a_token_that_opens_its_number_works_whatever_debug_token_says(token: object) -> None:
    found = seen(token=token)
    assert (found.verdict, found.report.token.valid, found.report.token.expires_at) == (Verdict.HEALTHY, True, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"app_id": None, "subscription": SubscriptionFacts(("5555555",))},
        {"subscription": Refused(MetaSaid("permission", 200), BlockReason.PERMISSION_MISSING)},
        {"subscription": NotTold("no account is told", is_outage=False)},
    ],
)  # fmt: skip
def test_a_subscription_that_meta_does_not_tell_is_unknown_and_no_problem(changes: dict[str, object]) -> None:
    found = seen(**changes)
    assert (found.verdict, found.report.subscription.state) == (Verdict.HEALTHY, State.UNKNOWN)
    assert found.report.subscription.subscribed is None


def test_the_tokens_app_stands_for_ours_where_the_settings_name_none() -> None:
    found = seen(app_id=None)
    assert (found.report.subscription.state, found.report.subscription.app_id) == (State.OK, "1029384756")


def test_a_stored_token_that_cannot_be_used_is_told_without_asking() -> None:
    found = judge(Inspection(AWAY, AWAY, AWAY, unusable=BlockReason.TOKEN_UNREADABLE), NOW)
    assert (found.verdict, found.reason) == (Verdict.UNHEALTHY, Problem.TOKEN_UNREADABLE)
    assert found.report.number.state is State.UNKNOWN


def test_the_worst_problem_is_the_reason_and_every_block_has_one() -> None:
    found = number(status="BANNED", quality_rating="RED", name_status="EXPIRED")
    assert found.report.problems == (Problem.ACCOUNT_LOCKED, Problem.QUALITY_LOW, Problem.NAME_DECLINED)
    assert {problem.block for problem in Problem} >= set(BlockReason)
    assert all(problem.words for problem in Problem)
