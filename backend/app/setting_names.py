"""Names in the environment and in `.env` that are probably meant to be a setting, and are none.

A misspelt setting is silently the default. What belongs to other programs must raise no alarm, so these rules:

1. Another way to write the setting: without underscores, with a common abbreviation or another unit (`LOGLVL`,
   `LEASE_SECS`, `DEBOUNCE_MS`), or with two neighbouring letters exchanged (`SINGUP`, `HSOT`).
2. While the setting itself is not given: a name that people use for it (`SUPABASE_SERVICE_ROLE_KEY`), another word for
   a secret (`GEMINI_TOKEN`), or its end alone (`TRUST_ENV`), if only one setting ends so.
3. A slip of the keyboard: underscores aside, the same letters but for about one in seven (`REDIS_URLL`).
4. Another ending of a word (`DATABASE_POOL`).
5. A word too few or too many behind the same first word (`GEMINI_KEY`, `WHATSAPP_PHONE_NUMBER_ID`), while the setting
   itself is not given. With a word too many only for settings without a default: `LOG_FILE_FORMAT` is not ours.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import takewhile

SLIP = 0.85
WORDS = 0.75
FEWER_WORDS = 0.6
STEM_LETTERS = 4
STEM = 0.6
"""Of the shorter word, at least."""
MAX_NAMES = 2000
"""Of the environment; more are not looked at."""

NEIGHBOURS = frozenset({
    "ALL_PROXY", "API_VERSION", "APP_SECRET", "CACHE_URL", "CERT_FILE", "DATABASE_USER", "GRAFANA_PASSWORD",
    "GRAFANA_PORT", "JWT_SECRET", "MAX_BYTES", "OPERATORS_PORT", "POSTGRES_PASSWORD", "PUBLIC_PORT", "REDIS_HOST",
    "REDIS_NAME", "REDIS_PASSWORD", "REDIS_PORT", "REDIS_TLS_URL", "SSL_CERT_DIR", "SUPABASE_ANON_KEY",
    "SUPABASE_DB_URL", "SUPABASE_JWT_ISSUER",
})  # fmt: skip
"""Names that look like ours and belong to other programs: of compose, of managed Redis, of the Supabase clients."""

ALIASES = {
    "SUPABASE_SERVICE_ROLE": "SUPABASE_KEY",
    "SUPABASE_SERVICE_ROLE_KEY": "SUPABASE_KEY",
    "WHATSAPP_APP_SECRET": "META_APP_SECRET",
}
"""What other programs and pages call a setting of ours."""

_SAME_WORD = {
    "ACCT": "ACCOUNT", "CONN": "CONNECTIONS", "CONNS": "CONNECTIONS", "CONNECTION": "CONNECTIONS",
    "ENVIRONMENT": "ENV", "FMT": "FORMAT", "LVL": "LEVEL", "MESSAGE": "MESSAGES", "MILLIS": "SECONDS",
    "MILLISECONDS": "SECONDS", "MS": "SECONDS", "MSG": "MESSAGES", "MSGS": "MESSAGES", "NS": "NAMESPACE",
    "SEC": "SECONDS", "SECOND": "SECONDS", "SECS": "SECONDS", "TOKS": "TOKENS", "WA": "WHATSAPP",
}  # fmt: skip
_LONGEST_FIRST = sorted(_SAME_WORD, key=len, reverse=True)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_WORDS = frozenset({"API", "APIKEY", "KEY", "KEYS", "SECRET", "SECRETS", "TOKEN", "TOKENS"})


def misspelt(given: Iterable[str], settings: Mapping[str, bool]) -> dict[str, str]:
    """Each suspicious name -> the setting that it is nearest to. `settings`: name -> has it a default?

    Names are compared in upper case, as they are read.
    """
    names = sorted({name.upper() for name in given if is_name(name)})[:MAX_NAMES]
    found = {}
    for name in names:
        if name in settings or name in NEIGHBOURS or len(name) < 4:
            continue
        if nearest := _nearest(name.removeprefix("CHORUS_"), settings, names):
            found[name] = nearest
    return found


def is_name(text: str) -> bool:
    """Letters, digits and underscores. What `.env` has beside these may be part of a value, and is not shown."""
    return _NAME.fullmatch(text) is not None


def _nearest(name: str, settings: Mapping[str, bool], given: Collection[str]) -> str | None:
    absent = [setting for setting in settings if setting not in given]
    forms = {_spelt_out(name), _with_last_word_spelt_out(_plain(name))}
    certain = [
        setting
        for setting in settings
        if setting != name and (_spelt_out(setting) in forms or _are_exchanged(_plain(name), _plain(setting)))
    ]
    certain += [setting for setting in absent if ALIASES.get(name) == setting or _is_other_secret(name, setting)]
    ends = [setting for setting in settings if _is_end_of(name, setting)]
    certain += [setting for setting in ends if len(ends) == 1 and setting in absent]
    candidates = certain or [
        setting
        for setting, has_default in settings.items()
        if len(setting) > 4 and _may_be_meant(name, setting, has_default=has_default, is_given=setting in given)
    ]
    return max(candidates, key=lambda setting: (_likeness(name, setting), setting), default=None)


def _plain(name: str) -> str:
    return name.replace("_", "")


@lru_cache(maxsize=256)
def _spelt_out(name: str) -> str:
    return "".join(_SAME_WORD.get(word, word) for word in name.split("_"))


def _with_last_word_spelt_out(plain: str) -> str:
    """`LOGLVL` has no underscore that shows where its last word begins."""
    for short in _LONGEST_FIRST:
        if plain.endswith(short):
            return plain.removesuffix(short) + _SAME_WORD[short]
    return plain


def _are_exchanged(one: str, other: str) -> bool:
    """Do they differ by two neighbouring letters that changed places?"""
    if len(one) != len(other):
        return False
    at = [i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    return len(at) == 2 and at[1] == at[0] + 1 and one[at[0]] == other[at[1]] and one[at[1]] == other[at[0]]


def _is_other_secret(name: str, setting: str) -> bool:
    words, own = name.split("_"), setting.split("_")
    both_are_secrets = words[-1] in _SECRET_WORDS and own[-1] in _SECRET_WORDS
    return both_are_secrets and _without_secret_words(words) == _without_secret_words(own) != []


def _without_secret_words(words: Sequence[str]) -> list[str]:
    left = list(words)
    while left and left[-1] in _SECRET_WORDS:
        left.pop()
    return left


def _is_end_of(name: str, setting: str) -> bool:
    return "_" in name and setting.endswith(f"_{name}")


def _may_be_meant(name: str, setting: str, *, has_default: bool, is_given: bool) -> bool:
    if name == setting:  # behind a prefix
        return not is_given
    words, own = name.split("_"), setting.split("_")
    is_as_long = abs(len(name) - len(setting)) <= 2 and not set(own) < set(words)
    if is_as_long and _are_alike(name, setting, at_least=SLIP):
        return True
    if words[0] != own[0]:
        return False
    if len(words) == len(own) and all(map(_have_one_stem, words, own)):
        return True
    if is_given:
        return False
    if len(words) > 1 and set(words) < set(own):
        return _are_alike(name, setting, at_least=FEWER_WORDS)
    return not has_default and _are_alike(name, setting, at_least=WORDS)


def _have_one_stem(one: str, other: str) -> bool:
    stem = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    return one == other or (stem >= STEM_LETTERS and stem >= STEM * min(len(one), len(other)))


def _likeness(name: str, setting: str) -> float:
    return SequenceMatcher(a=_plain(name), b=_plain(setting), autojunk=False).ratio()


def _are_alike(name: str, setting: str, *, at_least: float) -> bool:
    """The letters that both have, in whatever order, show at once that most names are not: every command asks."""
    one, other = _letters(name), _letters(setting)
    most = 2 * (one & other).total() / (one.total() + other.total())
    return most >= at_least and _likeness(name, setting) >= at_least


@lru_cache(maxsize=256)
def _letters(name: str) -> Counter[str]:
    return Counter(_plain(name))
