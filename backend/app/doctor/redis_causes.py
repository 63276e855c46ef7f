"""Why Redis did not do it, and what to do about it: by what redis-py, the server and the system below them say."""

from __future__ import annotations

from app.core.network_trouble import Cause, causes, network_cause
from app.core.redis.trouble import redis_words

_NO_REDIS = Cause("what answers there is no Redis", "correct host and port")
_REPLICA = Cause("it is a replica, which takes no writes", "name the primary")
_BY_KIND = {
    "InvalidResponse": _NO_REDIS,
    "BusyLoadingError": Cause("it is reading its data", "wait until it has started"),
    "OutOfMemoryError": Cause("its memory is full", "raise maxmemory; see docs/runbooks/ChorusRedisMemory.md"),
    "ReadOnlyError": _REPLICA,
}
"""By the name of redis-py's class: only the toolbox knows the classes."""
_BY_WORDS = {
    "no longer the primary": _REPLICA,
    "cluster support disabled": Cause("it is no Cluster", "write redis:// instead of redis+cluster://"),
    "Cluster mode is not enabled": Cause("it is no Cluster", "write redis:// instead of redis+cluster://"),
    "MOVED": Cause("it is part of a Cluster", "write redis+cluster:// instead of redis://"),
    "DB index is out of range": Cause(
        "it has no database of that number", "correct the number behind the last / of the URL"
    ),
}


def redis_cause(exc: BaseException, url: str) -> Cause | None:
    """`None` if nothing of it is known. `url` is only asked for its scheme."""
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
        if "RedisError" in _kinds(each) and "closed by server" in text:
            return Cause("it closed the connection", "is it a Redis, and does it want TLS (rediss://)?")
    return None


def _of_the_server(exc: BaseException) -> Cause | None:
    text, kinds = str(exc), _kinds(exc)
    if "AuthenticationError" in kinds or "NOAUTH" in text or "HELLO must be called" in text:
        if "invalid username-password" in text or "WRONGPASS" in text:
            return Cause("wrong user or password, or the user is disabled", "correct user and password in the URL")
        return Cause("it wants a password", "write it into the URL: redis://user:password@host:port/0")
    if "NoPermissionError" in kinds:
        said = f"its access list forbids it ({redis_words(exc)})"
        return Cause(said, "load infra/redis/chorus.acl, or use another user")
    known = [cause for kind, cause in _BY_KIND.items() if kind in kinds]
    known += [cause for words, cause in _BY_WORDS.items() if words in text]
    if "RedisError" in kinds and "protocol error" in text.lower():
        known.append(_NO_REDIS)
    return known[0] if known else None


def _kinds(exc: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(exc).__mro__}
