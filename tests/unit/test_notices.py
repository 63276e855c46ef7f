"""What Meta reports about an account: told in words, with an event from a short list, whatever its shape."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.notices import MAX_DETAILS, NOTICE_FIELDS, AccountNotice, read_notice


def notice(field: str, value: dict[str, Any]) -> AccountNotice:
    return read_notice(field, value, waba_id="100", phone_number_id=None)


@pytest.mark.parametrize(
    ("field", "value", "label", "severity"),
    [
        ("account_update", {"event": "DISABLED_UPDATE", "ban_info": {"waba_ban_state": "DISABLE"}}, "disabled_update",
         logging.ERROR),
        ("account_update", {"event": "DISABLED_UPDATE", "ban_info": {"waba_ban_state": "SCHEDULE_FOR_DISABLE"}},
         "disabled_update", logging.ERROR),
        ("account_update", {"event": "DISABLED_UPDATE", "ban_info": {"waba_ban_state": "REINSTATE"}}, "disabled_update",
         logging.INFO),
        ("account_update", {"event": "ACCOUNT_VIOLATION", "violation_info": {"violation_type": "ALCOHOL"}},
         "account_violation", logging.WARNING),
        ("account_update", {"event": "ACCOUNT_RESTRICTION", "restriction_info": [{"restriction_type": "X"}]},
         "account_restriction", logging.ERROR),
        ("account_update", {"event": "BRAND_NEW_EVENT"}, "other", logging.INFO),
        ("account_alerts", {"entity_id": "1", "alert_severity": "CRITICAL"}, "critical", logging.ERROR),
        ("account_alerts", {"alert_info": {"alert_severity": "INFORMATIONAL"}}, "informational", logging.INFO),
        ("account_review_update", {"decision": "REJECTED"}, "rejected", logging.ERROR),
        ("phone_number_quality_update", {"event": "FLAGGED"}, "flagged", logging.WARNING),
        ("phone_number_quality_update", {"event": "UPGRADE"}, "upgrade", logging.INFO),
        ("phone_number_name_update", {"decision": "REJECTED"}, "rejected", logging.WARNING),
        ("business_capability_update", {"max_daily_conversation_per_phone": 250}, "update", logging.INFO),
        ("business_status_update", {"event": "COMPROMISED_NOTIFICATION"}, "compromised_notification", logging.ERROR),
        ("message_template_status_update", {"event": "PAUSED"}, "paused", logging.WARNING),
        ("message_template_quality_update", {"new_quality_score": "RED"}, "red", logging.WARNING),
        ("template_category_update", {"new_category": "MARKETING"}, "marketing", logging.WARNING),
        ("security", {"event": "PIN_RESET_REQUEST"}, "pin_reset_request", logging.WARNING),
    ],
)  # fmt: skip
def test_each_event_has_its_label_and_severity(field: str, value: dict[str, Any], label: str, severity: int) -> None:
    told = notice(field, value)
    assert (told.event_label, told.severity, bool(told.words)) == (label, severity, True)


def test_a_notice_names_the_number_as_digits_and_its_details() -> None:
    told = notice("account_update", {"phone_number": "+1 555-000-1111", "event": "DISABLED_UPDATE", "ban_info": {"waba_ban_state": "DISABLE"}})  # noqa: E501  one notice  # fmt: skip
    assert (told.waba_id, told.phone_number, told.event) == ("100", "15550001111", "DISABLED_UPDATE")
    assert told.details["ban_info.waba_ban_state"] == "DISABLE"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["event", "decision", "alert_info", "ban_info", "waba_ban_state", "x", "phone_number"]), inner),
    max_leaves=40,
)  # fmt: skip


@given(st.sampled_from(sorted(NOTICE_FIELDS)), st.dictionaries(st.text(), JSON) | st.dictionaries(
    st.sampled_from(["event", "decision", "alert_severity", "ban_info", "new_quality_score"]), JSON))  # fmt: skip
def test_no_report_raises_and_all_are_small(field: str, value: dict[str, Any]) -> None:
    told = notice(field, value)
    assert told.event_label
    assert len(told.details) <= MAX_DETAILS
    assert all(len(item) <= 200 for pair in told.details.items() for item in pair)


@pytest.mark.parametrize(
    ("value", "block", "ends"),
    [
        ({"event": "DISABLED_UPDATE", "ban_info": {"waba_ban_state": "DISABLE"}}, "account_locked", False),
        ({"event": "DISABLED_UPDATE", "ban_info": {"waba_ban_state": "SCHEDULE_FOR_DISABLE"}}, None, False),
        ({"event": "DISABLED_UPDATE", "ban_info": {"waba_ban_state": "REINSTATE"}}, None, True),
        ({"event": "PARTNER_REMOVED"}, "permission_missing", False),
        ({"event": "ACCOUNT_RESTRICTION"}, None, False),
        ({"event": "VERIFIED_ACCOUNT"}, None, False),
    ],
)
def test_a_report_that_nothing_can_be_sent_blocks_and_its_opposite_ends_that(
    value: dict[str, Any], block: str | None, ends: bool
) -> None:
    told = notice("account_update", value)
    assert (told.block, told.ends_block) == (block, ends)
    assert notice("account_alerts", value).block is None
