"""What must guard the rows of our tables, read from the migrations, and what is missing in the database.

A table without row-level security is open to every signed-in user over Supabase's REST interface. Backups that are
restored into a cluster without our roles come back without policies, and no query of ours would notice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

from app.adapters.migrations import read_migrations
from app.domain.models import TableSecurity

_STATEMENT = re.compile(
    r"create\s+table\s+(?:if\s+not\s+exists\s+)?public\.(?P<table>\w+)"
    r"|chorus\.secure_table\(\s*'public\.(?P<secured>\w+)'"
    r"|create\s+policy\s+(?P<policy>\w+)\s+on\s+public\.(?P<of>\w+)"
    r"|drop\s+policy\s+(?:if\s+exists\s+)?(?P<gone>\w+)\s+on\s+public\.(?P<gone_of>\w+)"
    r"|drop\s+table\s+(?:if\s+exists\s+)?public\.(?P<dropped>\w+)",
    re.IGNORECASE,
)
_COMMENT = re.compile(r"--[^\n]*")
SERVICE_POLICY = "service"
"""What `chorus.secure_table` creates."""


@cache
def expected_policies() -> Mapping[str, frozenset[str]]:
    """Each table of ours -> its policies, with every migration applied."""
    return policies_of(migration.sql for migration in read_migrations())


def policies_of(scripts: Iterable[str]) -> Mapping[str, frozenset[str]]:
    tables: dict[str, set[str]] = {}
    for script in scripts:
        for found in _STATEMENT.finditer(_COMMENT.sub("", script)):
            if found["table"]:
                tables.setdefault(found["table"], set())
            elif found["secured"]:
                tables.setdefault(found["secured"], set()).add(SERVICE_POLICY)
            elif found["policy"]:
                tables.setdefault(found["of"], set()).add(found["policy"])
            elif found["gone"]:
                tables.get(found["gone_of"], set()).discard(found["gone"])
            else:
                tables.pop(found["dropped"], None)
    return {table: frozenset(policies) for table, policies in tables.items()}


def holes(expected: Mapping[str, frozenset[str]], actual: Mapping[str, TableSecurity]) -> list[str]:
    """What is missing, one line each, in words."""
    found = []
    for table, policies in sorted(expected.items()):
        state = actual.get(table)
        if state is None:
            found.append(f"table {table} is missing")
            continue
        if not state.row_security:
            found.append(f"{table}: row-level security is off")
        if missing := policies - set(state.policies):
            found.append(f"{table}: no policy {', '.join(sorted(missing))}")
    return found
