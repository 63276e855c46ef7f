"""The metrics page."""

from __future__ import annotations

import platform

from prometheus_client.parser import text_string_to_metric_families

import app
import app.core.cache
import app.core.circuit_breaker
from app.core.metrics import FAST_SECONDS, SLOW_SECONDS, render, tell_build


def test_it_is_valid_and_tells_the_build():
    tell_build("3f2c1ab")
    body, content_type = render()
    families = {family.name: family for family in text_string_to_metric_families(body.decode())}
    build = families["chorus_build_info"].samples[0]
    assert build.labels == {"version": app.__version__, "build": "3f2c1ab", "python": platform.python_version()}
    assert content_type.startswith("text/plain")


def test_the_toolboxes_own_metrics_are_on_it():
    names = {family.name for family in text_string_to_metric_families(render()[0].decode())}
    assert names >= {"chorus_circuit_breaker_state", "chorus_circuit_breaker_calls", "chorus_cache_requests"}


def test_buckets_grow():
    assert list(FAST_SECONDS) == sorted(FAST_SECONDS)
    assert list(SLOW_SECONDS) == sorted(SLOW_SECONDS)
