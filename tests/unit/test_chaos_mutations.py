"""The list of what the chaos check must notice follows the sources it changes."""

from __future__ import annotations

import pytest

from tests.chaos.mutations import MUTATIONS, ROOT


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_a_mutation_replaces_is_still_there(name: str) -> None:
    for edit in MUTATIONS[name].edits:
        assert (ROOT / edit.path).read_text(encoding="utf-8").count(edit.old) == edit.times, edit.path
