"""The settings of a command, checked as far as it needs them."""

from __future__ import annotations

from app.settings import Settings, load_settings

REDIS_IN_USE = "chorus.redis"
"""In click's context: name and value of the setting that a command's Redis comes from, if it is not REDIS_URL."""


def read_settings(**overrides: object) -> Settings:
    """Raises `SettingsError`. An override that is `None` was not given on the command line."""
    return load_settings(**{name: value for name, value in overrides.items() if value is not None})


def settings_with_redis() -> Settings:
    settings = read_settings()
    settings.check_redis()
    return settings


def settings_with_database() -> Settings:
    settings = read_settings()
    settings.check_database()
    settings.check_encryption()
    return settings
