"""The list of what the chaos check must notice follows the sources it changes."""

from __future__ import annotations

import pytest

from tests.chaos import whole
from tests.chaos.catalogue import EVERY_SCENARIO, scenarios_of
from tests.chaos.mutations import MUTATIONS, ROOT, mutations_of
from tests.integration import test_courtesies

COURTESIES = "tests/integration/test_courtesies.py::" + (
    test_courtesies.test_receipts_in_trouble_for_a_minute_delay_no_answer.__name__
)
UNMUTATED: dict[str, str] = {}
"""Scenarios without a mutation, each with its reason."""


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_a_mutation_replaces_is_still_there(name: str) -> None:
    for edit in MUTATIONS[name].edits:
        assert (ROOT / edit.path).read_text(encoding="utf-8").count(edit.old) == edit.times, edit.path


def test_every_scenario_has_a_mutation_that_must_break_it() -> None:
    assert {mutation.scenario for mutation in MUTATIONS.values()} == EVERY_SCENARIO.keys() - UNMUTATED.keys()
    assert UNMUTATED.keys() <= EVERY_SCENARIO.keys()


def test_three_seeds_in_a_row_play_every_scenario_and_every_mutation() -> None:
    assert {name for seed in (7, 8, 9) for name in scenarios_of(seed)} == EVERY_SCENARIO.keys()
    assert {name for seed in (7, 8, 9) for name in mutations_of(seed)} == MUTATIONS.keys()


def test_the_timed_tests_in_turn_are_all_there() -> None:
    assert tuple(f"{COURTESIES}[{fault}]" for fault in test_courtesies.FAULTS) == whole.IN_TURN
