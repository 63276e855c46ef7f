"""Names in the environment and in `.env` that are probably meant to be a setting, and are none.

A misspelt setting is silently the default. What belongs to other programs must raise no alarm, so two rules:

1. A slip of the keyboard: underscores aside, the same letters but for about one in seven (`REDIS_ULR`).
2. A word too few or too many behind the same first word (`GEMINI_KEY`, `WHATSAPP_PHONE_NUMBER_ID`), while the setting
   itself is not given. With a word too many only for settings without a default: `LOG_FILE_FORMAT` is not ours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import SequenceMatcher

SLIP = 0.85
WORDS = 0.75
FEWER_WORDS = 0.6
MAX_NAMES = 2000
"""Of the environment; more are not looked at."""

NEIGHBOURS = frozenset({
    "ALL_PROXY", "DATABASE_USER", "GRAFANA_PASSWORD", "GRAFANA_PORT", "POSTGRES_PASSWORD", "PUBLIC_PORT",
    "REDIS_HOST", "REDIS_PASSWORD", "REDIS_PORT", "REDIS_TLS_URL", "SSL_CERT_DIR", "SUPABASE_ANON_KEY",
    "SUPABASE_DB_URL", "SUPABASE_JWT_ISSUER", "SUPABASE_PUBLISHABLE_KEY",
})  # fmt: skip
"""Names that look like ours and belong to other programs: of compose, of managed Redis, of the Supabase clients."""


def misspelt(given: Iterable[str], settings: Mapping[str, bool]) -> dict[str, str]:
    """Each suspicious name -> the setting that it is nearest to. `settings`: name -> has it a default?

    Names are compared in upper case, as they are read.
    """
    names = sorted({name.upper() for name in given})[:MAX_NAMES]
    found = {}
    for name in names:
        if name in settings or name in NEIGHBOURS or len(name) < 4:
            continue
        if nearest := _nearest(name.removeprefix("CHORUS_"), settings, names):
            found[name] = nearest
    return found


def _nearest(name: str, settings: Mapping[str, bool], given: Collection[str]) -> str | None:
    candidates = [
        (_likeness(name, setting), setting)
        for setting, has_default in settings.items()
        if len(setting) > 4 and _may_be_meant(name, setting, has_default=has_default, is_given=setting in given)
    ]
    return max(candidates)[1] if candidates else None


def _may_be_meant(name: str, setting: str, *, has_default: bool, is_given: bool) -> bool:
    if name == setting:  # behind a prefix
        return not is_given
    likeness = _likeness(name, setting)
    words, own = name.split("_"), setting.split("_")
    is_longer = set(own) < set(words)
    if likeness >= SLIP and abs(len(name) - len(setting)) <= 2 and not is_longer:
        return True
    if is_given or words[0] != own[0]:
        return False
    if len(words) > 1 and set(words) < set(own):
        return likeness >= FEWER_WORDS
    return likeness >= WORDS and not has_default


def _likeness(name: str, setting: str) -> float:
    return SequenceMatcher(a=name.replace("_", ""), b=setting.replace("_", ""), autojunk=False).ratio()
