"""`chorus cache`: what operators see and do."""

from __future__ import annotations

import asyncio

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.core.cache import Cache, CacheTimings, join_fleet


@pytest.fixture
def chorus(valkey_url, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", valkey_url)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["cache", *arguments])

    return run


def fill(url: str, cache_timings: CacheTimings, *keys: str) -> None:
    async def source() -> dict[str, str]:
        return {"secret": "s3cret"}

    async def load() -> None:
        cache = Cache(timings=cache_timings)
        async with join_fleet(cache, url, namespace="chorus"):
            for key in keys:
                await cache.get_or_fetch(key, source, ttl_seconds=300)

    asyncio.run(load())


def test_stats_inspect_and_invalidate(chorus, valkey_url, cache_timings):
    fill(valkey_url, cache_timings, "user:1", "user:2", "alone")
    assert chorus("stats").output.split() == [
        "1", "(no", "group)", "2", "user", "3", "values;", "0", "loads", "or", "writers", "under", "way",
    ]  # fmt: skip
    shown = chorus("inspect", "user:1").output
    assert "19 bytes of schema json, fresh for" in shown
    assert "s3cret" not in shown
    assert '{"secret":"s3cret"}' in chorus("inspect", "user:1", "--value").output
    assert chorus("invalidate", "user:1").exit_code == 0
    assert chorus("inspect", "user:1").output == "no value\n"
    assert chorus("invalidate", "user:*", "al?ne").exit_code == 0
    assert (
        "no longer an answer" in chorus("inspect", "user:2").output or "no value" in chorus("inspect", "user:2").output
    )
    assert chorus("inspect", "alone").output == "no value\n"


def test_an_invalidation_that_redis_did_not_take_is_an_error(chorus, valkey):
    valkey.pause()
    try:
        result = chorus("invalidate", "user:1")
    finally:
        valkey.resume()
    assert result.exit_code == 3
    assert result.output.startswith("chorus: redis: ")


@pytest.mark.parametrize(("url", "problem"), [("http://x", "must start with redis://"), ("", "is missing")])
@pytest.mark.parametrize("command", [["cache", "stats"], ["fleet"], ["queue", "status"], ["breakers", "list"]])
def test_a_wrong_address_is_named_in_one_line(monkeypatch, tmp_path, command, url, problem):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", url)
    result = CliRunner().invoke(main, command)
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert result.output.startswith(f"chorus: REDIS_URL {problem}")
