"""How large a profile may be, and which field is named when it is larger."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.errors import InvalidInput
from app.domain.models import BotProfile, OnHandover
from app.domain.profile_limits import PROFILE_BYTES, check_profile

EMPTY = BotProfile("a", fallback_text="", interim_text="", non_text_reply="")


def deep(levels: int) -> Any:
    value: Any = "x"
    for level in range(levels):
        value = {"a": value} if level % 2 else [value]
    return value


def test_all_fields_count_together() -> None:
    check_profile(EMPTY, {"description": "x" * (PROFILE_BYTES // 2), "knowledge_base": "x" * (PROFILE_BYTES // 2)})
    before = BotProfile(
        "a", fallback_text="", interim_text="", non_text_reply="", custom_fields={"notes": "x" * 40_000}
    )
    with pytest.raises(InvalidInput, match=r"6553[0-9]|65536") as refused:
        check_profile(before, {"knowledge_base": "x" * 30_000, "hours": "x"})
    assert refused.value.field == "knowledge_base"


@pytest.mark.parametrize("name", ["custom_fields", "template_config"])
def test_a_free_form_field_is_counted_in_bytes_as_json(name: str) -> None:
    check_profile(EMPTY, {name: {"menu": "é" * 32_000}})
    with pytest.raises(InvalidInput) as refused:
        check_profile(EMPTY, {name: {"menu": "é" * 33_000}})
    assert refused.value.field == name


def test_a_list_counts_as_json_and_a_choice_as_nothing() -> None:
    full = {"description": "x" * (PROFILE_BYTES - 12)}
    check_profile(EMPTY, full | {"handover_keywords": ["agent"], "on_handover": OnHandover.CONTINUE})
    with pytest.raises(InvalidInput):
        check_profile(EMPTY, full | {"handover_keywords": ["agent", "human"]})


def test_one_that_is_too_large_already_may_become_smaller() -> None:
    before = BotProfile("a", description="x" * 100_000)
    check_profile(before, {"description": "x" * 90_000})
    check_profile(before, {"temperature": 1.0})
    with pytest.raises(InvalidInput):
        check_profile(before, {"hours": "Mon-Fri"})


def test_one_that_sql_nested_beyond_reading_can_still_be_mended() -> None:
    check_profile(BotProfile("a", custom_fields={"a": deep(5000)}), {"custom_fields": {}})
