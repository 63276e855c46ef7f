"""When the database does not do it: what the codes of PostgreSQL and PostgREST mean, and what is done then."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from enum import StrEnum

from app.core.circuit_breaker import (
    IGNORED,
    BreakerPolicy,
    CircuitBreaker,
    Verdict,
    default_classify,
    supabase_circuit_breaker,
)
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import SharedBy, Unavailable
from app.core.network_trouble import Cause, causes, network_cause
from app.core.resilience import ResiliencePolicy
from app.core.slots import Slots

ATTEMPT_SECONDS = 5.0
"""A connection that a fail-over left dead answers nothing: there must be time for another one."""
MAX_ATTEMPTS = 3
PATIENCE_SECONDS = 10.0
"""How long a call may wait for its turn, if its deadline allows: our own limit is load, not an outage."""
LOCK_SECONDS = 0.4
"""How long a call waits for a row that another session has locked. It keeps a connection all that time."""
LACKING_RETRY_SECONDS = 1.0
"""What was locked is locked by a person or a migration, and a disk is not emptied in milliseconds either."""
LACKING_SPACING_SECONDS = 0.3
"""Between two tries that find the same lacking: one or two connections, not all of an account's share. The first one
that gets it makes the others due (`services/inbox_worker.py`)."""
LACKING_MAX_SECONDS = 10.0
"""However many wait, none of them comes much later than this after the end, should that first one be lost."""
MAX_GROUPS = 1000
OPERATOR_CONCURRENT = 4
OPERATOR_FAILURES = 1000


class Trouble(StrEnum):
    """Why the database did not do it, as far as a retry and the breaker care."""

    AWAY = "away"
    """Down, starting, overloaded, or the network: worth repeating, counts against it."""
    BUSY = "busy"
    """Our transaction lost to another one: worth repeating, says nothing about its health."""
    LOCKED = "locked"
    """Another session has had the row for longer than we wait: worth repeating later, and not by holding a connection;
    says nothing about its health."""
    EXHAUSTED = "exhausted"
    """It lives and lacks something: connections, memory, disk. Worth repeating; what needs less of it goes on, so its
    circuit stays closed."""
    POOLED = "behind a pooler in transaction mode"
    """It was not carried out; worth repeating once prepared statements are given up; says nothing about its health."""
    REFUSED = "refused"
    """It does not know us: only an operator can mend that, but no work may be lost meanwhile."""
    NOT_MIGRATED = "not migrated"
    """It does not have our functions: as REFUSED, but it is well, and its circuit must not be open after `migrate`."""


class DatabaseUnavailable(Unavailable):
    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__("database", f"database {trouble}: {message}")
        self.trouble = trouble


READ_ONLY = "25006"
TAKES_NO_WRITES = Cause(
    "it takes no writes: it is a standby, or default_transaction_read_only is on",
    "name the primary in DATABASE_URL; a provider sets the latter when the disk is full: make room, then set it off",
)

_TROUBLE = {
    "08": Trouble.AWAY, "53": Trouble.EXHAUSTED, "57": Trouble.AWAY, "58": Trouble.AWAY, "XX": Trouble.AWAY,
    READ_ONLY: Trouble.AWAY,  # what used to be the primary, or one that its provider closed for a full disk
    "25P03": Trouble.AWAY,  # our transaction was ended because it stood still
    "26000": Trouble.POOLED, "42P05": Trouble.POOLED,
    "PGRST000": Trouble.AWAY, "PGRST001": Trouble.AWAY, "PGRST002": Trouble.AWAY, "PGRST003": Trouble.AWAY,
    "40": Trouble.BUSY, "55P03": Trouble.LOCKED,
    "28": Trouble.REFUSED, "3D000": Trouble.REFUSED, "42501": Trouble.REFUSED,
    "PGRST301": Trouble.REFUSED, "PGRST302": Trouble.REFUSED, "PGRST303": Trouble.REFUSED,
    "42883": Trouble.NOT_MIGRATED, "3F000": Trouble.NOT_MIGRATED, "PGRST202": Trouble.NOT_MIGRATED,
}  # fmt: skip
"""By SQLSTATE, its class, or PostgREST's code (PostgreSQL appendix A; PostgREST "Errors"). What is missing is a bug."""


_CODE = re.compile(r"[A-Z0-9]{5}|PGRST[A-Z0-9]{3}")
"""An SQLSTATE or PostgREST's. A code is told in our own words; what something in between puts in its place is not."""
_PASSING_CLAIMS = ("issued at future", "not yet valid")
"""Of PGRST303 (a claim of the token does not hold) the two that end by themselves: the clocks of the server that made
the token and of PostgREST differ by more than its 30 s of tolerance. Only the message tells which claim it was; an
expired token and a wrong audience stay what they are."""


def trouble(code: str, message: str = "") -> DatabaseUnavailable | None:
    """What a code of PostgreSQL or PostgREST says about the database; `None` if it is about what we asked of it."""
    if not _CODE.fullmatch(code):
        return None
    if code.startswith("PGRST30") and any(claim in message.lower() for claim in _PASSING_CLAIMS):
        return DatabaseUnavailable(Trouble.AWAY, f"{code}, clocks differ: the token is not valid yet")
    kind = _TROUBLE.get(code) or _TROUBLE.get(code[:2])
    if kind is None:
        return None
    if kind is Trouble.NOT_MIGRATED:
        return DatabaseUnavailable(kind, f"{code}, run `chorus migrate`")
    cause = _CAUSES.get(code)
    return DatabaseUnavailable(kind, f"{code}, {cause.said}" if cause else code)


def takes_no_writes() -> DatabaseUnavailable:
    """What a write would be refused with, for one who has only looked."""
    return DatabaseUnavailable(Trouble.AWAY, f"{READ_ONLY}, {TAKES_NO_WRITES.said}")


_CAUSES = {
    "28P01": Cause("wrong user or password", "correct it in DATABASE_URL (@ is written %40, / %2F, # %23)"),
    "28": Cause("wrong user, or pg_hba.conf does not let it in from here", "correct the user in DATABASE_URL"),
    "3D000": Cause("there is no database of that name", "correct the name in DATABASE_URL, or create the database"),
    "42501": Cause("this user may not do it", "connect as the owner of the tables, or as a member of service_role"),
    "42883": Cause("the schema is missing or older than this version", "run: chorus migrate"),
    "3F000": Cause("the schema is missing or older than this version", "run: chorus migrate"),
    "PGRST202": Cause("the schema is missing or older than this version", "run: chorus migrate"),
    "53100": Cause("its disk is full", "make room, or a larger disk: it takes no writes until then"),
    "53200": Cause("it has no memory left", "fewer connections, or a larger machine"),
    "53300": Cause("it has no connection left", "raise max_connections, or run fewer replicas"),
    "55P03": Cause("somebody holds a lock on it", "pg_stat_activity and pg_locks tell who: end that session"),
    "26000": Cause("a pooler in transaction mode is in between", "set DATABASE_POOLING=transaction"),
    "42P05": Cause("a pooler in transaction mode is in between", "set DATABASE_POOLING=transaction"),
    "57P03": Cause("it is starting or stopping", "wait a moment"),
    READ_ONLY: TAKES_NO_WRITES,
    "PGRST301": Cause("the key is refused", "SUPABASE_KEY must be the secret (service role) key"),
    "401": Cause("the key is refused", "SUPABASE_KEY must be the secret (service role) key"),
    "403": Cause("the key is refused", "SUPABASE_KEY must be the secret (service role) key"),
    "404": Cause("no REST interface answers there", "correct SUPABASE_URL: https://<project>.supabase.co"),
}
"""By SQLSTATE, its class, PostgREST's code or the HTTP status of a gateway."""


def database_cause(exc: BaseException) -> Cause | None:
    """In words for the operator. `None` if neither the database nor the network says anything."""
    found = list(causes(exc))
    for each in found:
        code = str(getattr(each, "sqlstate", None) or getattr(each, "code", None) or "")
        if cause := _CAUSES.get(code) or _CAUSES.get(code[:2]):
            return cause
    if any("rejected SSL upgrade" in str(each) for each in found):
        return Cause("it speaks no TLS, or is no PostgreSQL", "correct host and port, or leave out sslmode=require")
    if any("unexpected connection_lost" in str(each) for each in found):
        return Cause("it closed the connection", "is it a PostgreSQL, and the right port?")
    cause = network_cause(exc)
    if cause is not None and cause.mend.startswith("name the CA"):
        return Cause(cause.said, "append ?sslrootcert=/path/to/ca.pem to DATABASE_URL; for Supabase use SSL_CERT_FILE")
    return cause


def database_policy(
    *,
    max_concurrent: int,
    breaker: CircuitBreaker = supabase_circuit_breaker,
    attempt_timeout_seconds: float = ATTEMPT_SECONDS,
    max_attempts: int = MAX_ATTEMPTS,
    uniform: Callable[[], float] = random.random,
) -> ResiliencePolicy:
    """How every call of a store is made. Of the places one is kept for what records a send and for the probe; neither
    people nor the work in the background get more than seven tenths, and one account not more than half."""
    slots = Slots(
        max_concurrent,
        kept=min(max_concurrent - 1, max(1, max_concurrent // 10)),
        per_rank=max(1, max_concurrent * 7 // 10),
        per_group=max(1, max_concurrent // 2),
    )
    return ResiliencePolicy(
        "database",
        breaker=breaker,
        attempt_timeout_seconds=attempt_timeout_seconds,
        max_attempts=max_attempts,
        slots=slots,
        patience_seconds=PATIENCE_SECONDS,
        classify=_classify,
        retry_if=_may_repeat,
        timed_out=lambda seconds: DatabaseUnavailable(Trouble.AWAY, f"no answer within {seconds:.1f} s"),
        uniform=uniform,
    )


def operator_policy() -> ResiliencePolicy:
    """For a command: a person waits for the cause, not for the third attempt, and no circuit stands before it."""
    breaker = CircuitBreaker("operator", BreakerPolicy(OPERATOR_FAILURES, 1.0), dependency="database")
    return database_policy(max_concurrent=OPERATOR_CONCURRENT, breaker=breaker, max_attempts=2)


_SAYS_NOTHING = frozenset({Trouble.BUSY, Trouble.LOCKED, Trouble.EXHAUSTED, Trouble.POOLED, Trouble.NOT_MIGRATED})
_WORTH_REPEATING = frozenset({Trouble.AWAY, Trouble.BUSY, Trouble.EXHAUSTED, Trouble.POOLED})


class Turns:
    """When to come back to what the database lacked: the tries of those who wait for the same one after the other, not
    all at once."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._next: dict[str, float] = {}

    def delay_seconds(self, group: str) -> float:
        """For the call of `group` that has just failed; `""` has no turns."""
        now = self._clock.monotonic()
        soonest = now + LACKING_RETRY_SECONDS
        if not group:
            return LACKING_RETRY_SECONDS
        if len(self._next) >= MAX_GROUPS:
            self._next = {name: at for name, at in self._next.items() if at > now}
        at = min(max(soonest, self._next.get(group, 0.0)), now + LACKING_MAX_SECONDS)
        self._next[group] = at + LACKING_SPACING_SECONDS
        return at - now


SHARED_BY = {Trouble.LOCKED: SharedBy.ACCOUNT, Trouble.EXHAUSTED: SharedBy.ALL}
"""What the database lacks while it lives, by who waits for the same."""


def _classify(exc: Exception) -> Verdict:
    if isinstance(exc, DatabaseUnavailable) and exc.trouble in _SAYS_NOTHING:
        return IGNORED
    return default_classify(exc)


def _may_repeat(exc: BaseException) -> bool:
    return isinstance(exc, DatabaseUnavailable) and exc.trouble in _WORTH_REPEATING
