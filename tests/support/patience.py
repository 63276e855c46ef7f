"""Limits on time, as the product promises them and as a busy machine can hold them."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

PATIENCE = 5.0
"""`make test` plays several tests on the same cores, on whatever machine; `make chaos` gives 1."""


class Within(NamedTuple):
    """`within(0.3)`: the seconds that a test allows for what the product does in 0.3. `below`: what it takes when the
    product does not do it, which no limit may reach."""

    patience: float

    def __call__(self, seconds: float, *, below: float = inf) -> float:
        return min(seconds * self.patience, below)
