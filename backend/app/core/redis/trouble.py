"""Why Redis did not do it, in words that may be logged."""

from __future__ import annotations

import re

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    InvalidResponse,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from app.core.errors import Expected
from app.core.failure_words import in_words, one_line

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
    return one_line(str(exc))[:_MAX_CHARACTERS] or type(exc).__name__


def _of_what_it_said(exc: BaseException) -> str:
    """redis-py takes the code off the answers that it has a class for."""
    text = str(exc)
    code = _CODE.match(text)
    head = f"{type(exc).__name__} {code[0]}" if code else type(exc).__name__
    known = list(dict.fromkeys(match[0] for match in _SAYS.finditer(text)))
    return f"{head}: {', '.join(known)}" if known else head
