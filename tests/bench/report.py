"""Figures as people read them: every one with its rounds, every bar with its verdict."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles

_BARS = "BARS "


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure that was promised. `limit` is the least, or the most when `at_most`."""

    what: str
    value: float
    limit: float
    unit: str = ""
    at_most: bool = False

    @property
    def is_met(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        by = f"{abs((self.value - self.limit) / self.limit):.0%}" if self.limit else number(self.value)
        verdict = "met" if self.is_met else f"MISSED by {by}"
        return f"{self.what}: {number(self.value)}{self.unit} (bar {sign} {number(self.limit)}{self.unit}) {verdict}"


def write_bars(bars: Iterable[Bar]) -> str:
    """One line, for whoever started this process."""
    return _BARS + json.dumps([asdict(bar) for bar in bars])


def read_bars(lines: Sequence[str]) -> tuple[list[str], list[Bar]]:
    """What a process printed for people, and the bars in its line of `write_bars`, if there is one."""
    bars = [Bar(**fields) for line in lines if line.startswith(_BARS) for fields in json.loads(line[len(_BARS) :])]
    return [line for line in lines if not line.startswith(_BARS)], bars


def number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(values: Sequence[float]) -> float:
    """The noise: how far the rounds lie apart, as a share of their median."""
    return (max(values) - min(values)) / median(values)


def table(title: str, unit: str, rows: Mapping[str, Sequence[float]]) -> str:
    """Median, lowest and highest round of each row, and the noise."""
    width = max(map(len, rows))
    lines = [f"{title}, {unit}", f"  {'':{width}}  {'median':>9}  {'lowest':>9}  {'highest':>9}  {'noise':>6}"]
    for name, values in rows.items():
        figures = "  ".join(f"{number(value):>9}" for value in (median(values), min(values), max(values)))
        noise = f"{spread(values):.0%}" if median(values) else "-"
        lines.append(f"  {name:{width}}  {figures}  {noise:>6}")
    return "\n".join(lines)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the quotients round by round: neighbours in time share the machine's mood."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def quotients_of_pairs(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Of each two neighbouring rounds of both: played as theirs, ours, ours, theirs, a steady drift falls out."""
    return [sum(ours[n : n + 2]) / sum(theirs[n : n + 2]) for n in range(0, len(ours), 2)]


def uncertainty(values: Sequence[float]) -> float:
    """How far the median of another run would lie from this one's, 19 times of 20: the notch of a box plot (McGill,
    Tukey, Larsen, 1978), from the range of the middle half, which a few disturbed rounds do not widen."""
    quarters = quantiles(values, n=4)
    return 1.57 * (quarters[2] - quarters[0]) / math.sqrt(len(values))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100).__int__() - 1)]
