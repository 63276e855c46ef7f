"""REDIS_DURABILITY: what a start and `chorus doctor` ask of Redis, by what durability rests on."""

from __future__ import annotations

from typing import Any

import pytest

from app.core.errors import SettingsError
from app.doctor.checkup import _unsafe
from app.services.redis_health import DURABLE, about_redis
from app.settings import Settings
from tests.support.serving import settings_of

DATABASE = {"ingest_fallback": "database"}


def settings(**more: Any) -> Settings:
    return settings_of("https://outside", "redis://r:6379", "postgresql://p/x", app_env="production", **more)


def findings(rests_on: str, info: dict[str, Any], *, fsync: str | None = None, **more: Any) -> dict[str, str]:
    about = about_redis(
        [{"maxmemory_policy": "noeviction", "maxmemory": 2**30, "used_memory": 0} | info], is_cluster=False
    )
    wanted = settings(redis_durability=rests_on, **DATABASE, **more)
    return {finding.subject: finding.state for finding in _unsafe(wanted, about, fsync)}


@pytest.mark.parametrize("durability", ["managed", "none"])
def test_without_the_append_only_file_postgres_must_take_over(durability: str) -> None:
    with pytest.raises(SettingsError, match=f"INGEST_FALLBACK: must be database with REDIS_DURABILITY={durability}"):
        settings(redis_durability=durability, whatsapp_verify_token="v").check_serve()


def test_the_append_only_file_is_asked_for_unless_durability_rests_elsewhere() -> None:
    assert findings("aof", {}) == {"redis persistence": "bad"}
    assert findings("managed", {}) == {"redis durability": "ok"}
    assert findings("none", {}) == {"redis durability": "ok"}


def test_a_failed_write_of_the_file_counts_only_where_durability_rests_on_it() -> None:
    broken = {"aof_enabled": 1, "aof_last_write_status": "err"}
    assert findings("aof", broken) == {"redis disk": "bad"}
    assert findings("none", broken) == {"redis durability": "ok"}


@pytest.mark.parametrize(
    ("policy", "aof", "elsewhere"),
    [("volatile-lru", "bad", "warn"), (None, "bad", "warn"), ("allkeys-lru", "bad", "bad")],
)
def test_eviction_is_bad_where_it_can_take_a_message(policy: str | None, aof: str, elsewhere: str) -> None:
    evicting = {"aof_enabled": 1, "aof_last_write_status": "ok", "maxmemory_policy": policy}
    assert findings("aof", evicting)["redis eviction"] == aof
    assert findings("managed", evicting)["redis eviction"] == elsewhere
    assert findings("none", evicting)["redis eviction"] == elsewhere


def test_fsync_is_a_matter_of_the_append_only_file() -> None:
    written = {"aof_enabled": 1, "aof_last_write_status": "ok"}
    assert findings("aof", written, fsync="everysec", durability="fsync") == {"redis fsync": "bad"}
    assert findings("none", written, durability="fsync") == {"redis durability": "ok"}


@pytest.mark.parametrize(("needs_aof", "durable"), [(True, 0), (False, 1)])
def test_the_alert_stays_silent_where_no_append_only_file_is_needed(*, needs_aof: bool, durable: int) -> None:
    about_redis([{"aof_enabled": 0}], is_cluster=False, needs_aof=needs_aof)
    assert DURABLE._value.get() == durable
