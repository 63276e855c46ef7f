"""Why Redis did not do it, in words for the operator, and what of its own words may be logged."""

from __future__ import annotations

import re

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from app.core.errors import Expected
from app.core.failure_words import in_words, one_line
from app.core.network_trouble import Cause, causes, network_cause

_NO_REDIS = "what answers there is no Redis"

_COMMAND = re.compile(r"Command # \d+ \(.*\) of pipeline caused error: ", re.DOTALL)
"""redis-py repeats the command that failed, arguments included: names of mailboxes hold phone numbers."""
_MAX_CHARACTERS = 200

_OF_THE_SERVER = (ResponseError, AuthenticationError, AuthorizationError, BusyLoadingError, InvalidResponse)
_SAYS = re.compile(
    r"""\b(?:unknown\ command | unknown\ subcommand | wrong\ number\ of\ arguments | syntax\ error
      | No\ matching\ script | user_script:\d+ | Script\ killed | Redis\ is\ busy
      | invalid\ username-password\ pair | Authentication\ required | HELLO\ must\ be\ called
      | no\ permissions\ to\ (?:run\ the\ '[\w|-]+'\ command | access\ one\ of\ the\ (?:keys|channels))
      | command\ not\ allowed\ when\ used\ memory(?:\ >\ 'maxmemory')? | can't\ write\ against\ a\ read\ only\ replica
      | max\ number\ of\ clients\ reached | loading\ the\ dataset | unable\ to\ persist | (?:no\ )?replicas\ to\ write
      | wrong\ kind\ of\ value | not\ an\ integer | DB\ index\ is\ out\ of\ range | cluster\ support\ disabled
      | Cluster\ mode\ is\ not\ enabled | Redis\ Cluster\ cannot\ be\ connected | certificate\ verify\ failed
      | The\ cluster\ is\ down | Link\ with\ MASTER\ is\ down)(?!\w)""",
    re.VERBOSE | re.IGNORECASE,
)
"""Of what a server says, what may be repeated. The rest may quote the command, with keys and values."""
_CODE = re.compile(r"[A-Z]{2,20}\b")


def redis_words(exc: BaseException) -> str:
    """What the server or the network said. Of the server's words its code, and those that we know (`_SAYS`)."""
    if isinstance(exc, (*_OF_THE_SERVER, RedisClusterException)):
        return _of_what_it_said(exc)
    if not isinstance(exc, RedisError | Expected):
        return in_words(exc) if not isinstance(exc, OSError) else one_line(str(exc)) or type(exc).__name__
    return one_line(_COMMAND.sub("", str(exc)))[:_MAX_CHARACTERS] or type(exc).__name__


def _of_what_it_said(exc: BaseException) -> str:
    """redis-py takes the code off the answers that it has a class for."""
    text = _COMMAND.sub("", str(exc))
    code = _CODE.match(text)
    head = f"{type(exc).__name__} {code[0]}" if code else type(exc).__name__
    known = list(dict.fromkeys(match[0] for match in _SAYS.finditer(text)))
    return f"{head}: {', '.join(known)}" if known else head


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
            said = f"its access list forbids it ({redis_words(exc)})"
            return Cause(said, "load infra/redis/chorus.acl, or use another user")
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
