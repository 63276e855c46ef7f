"""What every Prometheus metric here shares; the metrics themselves are declared where they are counted.

Names start with `chorus_` and end in a base unit; labels have few values, known in advance, never an id.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Info, generate_latest

from app import __version__

FAST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Buckets for what should take milliseconds: a webhook, a query."""
SLOW_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0)
"""Buckets for what may take seconds: a model's answer, a conversation from end to end."""

OTHER = "other"
_NAME = re.compile(r"(?!.*\d{6})[a-z][a-z0-9_.]{0,59}", re.ASCII)
"""What a field may be called; an id or a phone number is none."""

BUILD = Info("chorus_build", "Version and build of Chorus, and version of Python")


def tell_build(build: str) -> None:
    """Once, at start-up: which build this process runs."""
    BUILD.info({"version": __version__, "build": build, "python": platform.python_version()})


class BoundedNames:
    """Names from outside as labels: the first `limit` distinct ones of this process, then "other", so that memory and
    labels stay bounded."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._names: set[str] = set()

    def label(self, name: object) -> tuple[str, bool]:
        """`name` or "other", and whether this process sees that label for the first time."""
        text = name if isinstance(name, str) and _NAME.fullmatch(name) else OTHER
        if text not in self._names and len(self._names - {OTHER}) >= self._limit:
            text = OTHER
        is_new = text not in self._names
        self._names.add(text)
        return text, is_new


def samples_of(*names: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """Name, labels and value of this process' samples with these names (`…_count`, `…_bucket`)."""
    for family in REGISTRY.restricted_registry(names).collect():
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def render() -> tuple[bytes, str]:
    """Everything counted in this process, in the text format, and its content type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST
