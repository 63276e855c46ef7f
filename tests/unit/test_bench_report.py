"""Bars on their way from the process that measures to the one that judges."""

from __future__ import annotations

from tests.bench.report import Bar, read_bars, write_bars


def test_bars_come_back_as_they_were_and_their_line_is_not_for_people():
    bars = [Bar("calls", 4, 6, at_most=True), Bar("seconds", float("inf"), 1.3, " s", at_most=True)]
    assert read_bars(["a table", write_bars(bars)]) == (["a table"], bars)
    assert read_bars(["a table"]) == (["a table"], [])


def test_a_bar_of_nothing_at_all_tells_by_how_much_it_was_missed():
    assert str(Bar("round trips", 3, 0, at_most=True)).endswith("MISSED by 3.00")
    assert str(Bar("round trips", 0, 0, at_most=True)).endswith(" met")
