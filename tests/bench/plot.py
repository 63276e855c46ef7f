"""Line charts as SVG, written by hand: no library, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 36, 44
COLOURS = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce")
TICKS = 5


@dataclass(frozen=True, slots=True)
class Chart:
    """`series`: points (x, y) in the order of x. On a logarithmic axis what is not above 0 is left out. `shaded`: from
    x, to x, what happens there."""

    title: str
    x: str
    y: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = False
    log_y: bool = False
    shaded: Sequence[tuple[float, float, str]] = field(default=())


def svg(charts: Sequence[Chart]) -> str:
    """The charts below each other."""
    height = HEIGHT * len(charts)
    body = "".join(
        f'<g transform="translate(0 {HEIGHT * number})">{_draw(chart)}</g>\n' for number, chart in enumerate(charts)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="11">\n<rect width="100%" height="100%" fill="#ffffff"/>\n{body}</svg>\n'
    )


def _draw(chart: Chart) -> str:
    points = {
        name: [(x, y) for x, y in values if (x > 0 or not chart.log_x) and (y > 0 or not chart.log_y)]
        for name, values in chart.series.items()
    }
    xs = [x for values in points.values() for x, _ in values] or [1.0]
    ys = [y for values in points.values() for _, y in values] or [1.0]
    across = _Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, log=chart.log_x)
    up = _Axis(min(ys) if chart.log_y else 0.0, max(ys), HEIGHT - BOTTOM, TOP, log=chart.log_y)
    parts = [f'<text x="{LEFT}" y="16" font-weight="bold">{escape(chart.title)}</text>']
    for start, end, what in chart.shaded:
        x, width = across.at(start), max(2.0, across.at(end) - across.at(start))
        parts.append(
            f'<rect x="{x:.1f}" y="{TOP}" width="{width:.1f}" height="{HEIGHT - BOTTOM - TOP}" fill="#fde68a"/>'
        )
        parts.append(f'<text x="{x + 2:.1f}" y="{TOP + 10}" font-size="9">{escape(what)}</text>')
    for value in up.ticks():
        y = up.at(value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    for value in across.ticks():
        x, y = across.at(value), HEIGHT - BOTTOM + 14
        parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{_short(value)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 14}" text-anchor="end">{escape(chart.x)}</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 6}" fill="#4b5563">{escape(chart.y)}</text>')
    for number, (name, values) in enumerate(points.items()):
        colour = COLOURS[number % len(COLOURS)]
        line = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in values)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        parts.append(f'<text x="{LEFT + 150 * number}" y="{HEIGHT - 14}" fill="{colour}">— {escape(name)}</text>')
    return "\n".join(parts)


class _Axis:
    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool) -> None:
        self._log = log
        self._low: float
        self._high: float
        self._low, self._high = (10 ** math.floor(math.log10(low)), high) if log else (low, high)
        if self._high <= self._low:
            self._high = self._low + 1
        self._start, self._end = start, end

    def at(self, value: float) -> float:
        """Pixels."""
        low, high, at = (math.log10(n) if self._log else n for n in (self._low, self._high, value))
        return self._start + (self._end - self._start) * (at - low) / (high - low)

    def ticks(self) -> list[float]:
        if self._log:
            first, last = round(math.log10(self._low)), math.floor(math.log10(self._high))
            return [10.0**power for power in range(first, last + 1)]
        step = 10 ** math.floor(math.log10((self._high - self._low) / TICKS))
        step = next(step * factor for factor in (1, 2, 5, 10) if (self._high - self._low) / (step * factor) <= TICKS)
        first = math.ceil(self._low / step)
        return [number * step for number in range(first, math.floor(self._high / step) + 1)]


def _short(value: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
