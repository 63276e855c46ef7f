"""Why Redis did not do it, in words for the operator, and what of its own words may be logged."""

from __future__ import annotations

import re

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from app.core.errors import Expected
from app.core.failure_words import in_words, one_line
from app.core.network_trouble import Cause, causes, network_cause

_NO_REDIS = "what answers there is no Redis"

_COMMAND = re.compile(r"Command # \d+ \(.*\) of pipeline caused error: |, with args beginning with:.*", re.DOTALL)
"""redis-py and the server repeat the command that failed, arguments included: names of mailboxes hold phone numbers."""
_MAX_CHARACTERS = 200


def redis_words(exc: BaseException) -> str:
    """What the server or the network said, without the command it was said about."""
    if not isinstance(exc, RedisError | Expected):
        return in_words(exc) if not isinstance(exc, OSError) else one_line(str(exc)) or type(exc).__name__
    return one_line(_COMMAND.sub("", str(exc)))[:_MAX_CHARACTERS] or type(exc).__name__


def redis_cause(exc: BaseException, url: str) -> Cause | None:
    """By what redis-py and the system below it say. `None` if they say nothing. `url` is only asked for its scheme."""
    found = list(causes(exc))
    for each in found:
        if cause := _of_the_server(each):
            return cause
    cause = network_cause(exc)
    if cause is not None and cause.said == "no answer in time" and url.startswith("rediss"):
        return Cause(cause.said, "if the server speaks no TLS there, write redis:// or use its port for TLS")
    if cause is not None and cause.mend.startswith("name the CA"):
        return Cause(cause.said, "append ?ssl_ca_certs=/path/to/ca.pem to the URL")
    if cause is not None:
        return cause
    for each in found:
        text = str(each)
        if "Connect call failed" in text or "Connection refused" in text:  # of a sentinel, kept as text alone
            return Cause("connection refused", "nothing listens there: start it, or correct host and port")
        if isinstance(each, RedisConnectionError) and "closed by server" in text:
            return Cause("it closed the connection", "is it a Redis, and does it want TLS (rediss://)?")
    return None


def _of_the_server(exc: BaseException) -> Cause | None:
    text = str(exc)
    if isinstance(exc, AuthenticationError) or "NOAUTH" in text or "HELLO must be called" in text:
        if "invalid username-password" in text or "WRONGPASS" in text:
            return Cause("wrong user or password, or the user is disabled", "correct user and password in the URL")
        return Cause("it wants a password", "write it into the URL: redis://user:password@host:port/0")
    match exc:
        case NoPermissionError():
            return Cause(f"its access list forbids it ({text})", "load infra/redis/chorus.acl, or use another user")
        case InvalidResponse():
            return Cause(_NO_REDIS, "correct host and port")
        case BusyLoadingError():
            return Cause("it is reading its data", "wait until it has started")
        case OutOfMemoryError():
            return Cause("its memory is full", "raise maxmemory; see docs/runbooks/ChorusRedisMemory.md")
        case ReadOnlyError():
            return Cause("it is a replica, which takes no writes", "name the primary")
    if "no longer the primary" in text:
        return Cause("it is a replica, which takes no writes", "name the primary")
    if "cluster support disabled" in text or "Cluster mode is not enabled" in text:
        return Cause("it is no Cluster", "write redis:// instead of redis+cluster://")
    if "MOVED" in text:
        return Cause("it is part of a Cluster", "write redis+cluster:// instead of redis://")
    if "DB index is out of range" in text:
        return Cause("it has no database of that number", "correct the number behind the last / of the URL")
    if "protocol error" in text.lower() and isinstance(exc, RedisError):
        return Cause(_NO_REDIS, "correct host and port")
    return None
