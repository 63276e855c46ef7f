"""What is wrong with DATABASE_URL, as far as only asyncpg or the server can tell, in words and without repeating it.

asyncpg sends each parameter behind `?` that it does not know to the server, which takes the names of its own settings
(`search_path`, `statement_timeout`, …) and refuses the others; a pooler refuses most of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from app.domain.errors import ConfigurationError

_REFUSED_OPTIONS = frozenset({"42704", "42601", "22023", "55P02"})
"""SQLSTATE while connecting, when nothing but the options was sent: no such setting, not readable, a value that it does
not take, a setting of the whole server."""
_UNSUPPORTED = re.compile(r"unsupported startup parameter(?: in options)?: ([\w.-]{1,60})")
"""PgBouncer, as 08P01."""
_QUOTED = re.compile(r'"([^"]{1,60})"')
_ONE_OF = re.compile(r"`(\w+)` parameter must be one of: ([\w, -]+)")


@contextmanager
def connecting() -> Iterator[None]:
    """Around what opens a connection. Raises `ConfigurationError` for what only DATABASE_URL can mend; other errors
    pass."""
    try:
        yield
    except ValueError as exc:
        raise ConfigurationError("DATABASE_URL", _of_asyncpg(str(exc))) from None
    except asyncpg.PostgresError as exc:
        if problem := _of_the_server(exc):
            raise ConfigurationError("DATABASE_URL", problem) from exc
        raise


def _of_asyncpg(text: str) -> str:
    if text.startswith("root certificate file"):
        return (
            "asks for a verified certificate (sslmode) without a root certificate:"
            " append sslrootcert=/path/to/ca.pem behind the ?"
        )
    if known := _ONE_OF.match(text):
        return f"has a value of {known[1]} that does not exist; there are {known[2]}"
    return "is not a valid postgresql:// URL"


def _of_the_server(exc: asyncpg.PostgresError) -> str | None:
    text = str(exc)
    if unsupported := _UNSUPPORTED.search(text):
        return f"has an option that the pooler does not take: {unsupported[1]}"
    if exc.sqlstate not in _REFUSED_OPTIONS:
        return None
    quoted = _QUOTED.search(text)  # other languages have other quotation marks
    name = f": {quoted[1]}" if quoted else ""
    if exc.sqlstate == "42704":
        return f"has an option that does not exist{name}"
    return f"has an option that the server refuses{name}"
