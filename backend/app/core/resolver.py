"""Names to addresses, so that a name server that hangs costs only those who ask for that name.

    addresses = await resolver.addresses("redis.internal", 6379, family=0, type=0, proto=0, flags=0)

uvloop looks names up on the four threads of libuv, which the whole process shares, and a look-up that has begun cannot
be ended: while four of them hang, no name resolves. Here each name has a thread of its own.

1. One look-up of a name at a time; everyone who asks meanwhile waits for the same one, `LOOKUP_SECONDS` at most.
2. An answer is used for `FRESH_SECONDS` without asking again: less than a fail-over by DNS takes to be noticed.
3. After that a look-up gets `PATIENCE_SECONDS`. If it takes longer, or the name server has trouble, the last answer
   serves for another `STALE_SECONDS` (RFC 8767), and the look-up goes on in the background.
4. A name that does not exist (any more) is an error at once, whatever was known of it.
5. At most `MAX_LOOKUPS` threads and `MAX_NAMES` answers; a look-up beyond that fails as one the name server refuses.
   Names that strangers choose have a resolver of their own (core/http_transport.py). There a source (an account) has
   at most as many look-ups under way as are still free, so that names that hang leave some to the others.

What it does not do: read the records' own time to live (`getaddrinfo` does not tell it), or end a thread that hangs.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.core.clock import SYSTEM_CLOCK, Clock

FRESH_SECONDS = 5.0
PATIENCE_SECONDS = 0.25
STALE_SECONDS = 3600.0
LOOKUP_SECONDS = 5.0
MAX_LOOKUPS = 32
MAX_NAMES = 1000

Address = tuple[Any, ...]
"""As `socket.getaddrinfo`: family, type, protocol, canonical name, socket address."""
LookUp = Callable[..., Sequence[Address]]


@dataclass(slots=True)
class _Name:
    known: Sequence[Address] | None = None
    known_at: float = 0.0
    started_at: float = 0.0
    asking: asyncio.Future[Sequence[Address]] | None = None
    """The look-up under way."""


@dataclass
class Resolver:
    """Belongs to one event loop. `look_up` blocks a thread; it takes and returns what `socket.getaddrinfo` does."""

    look_up: LookUp = socket.getaddrinfo
    clock: Clock = SYSTEM_CLOCK
    _names: OrderedDict[tuple[Any, ...], _Name] = field(default_factory=OrderedDict)
    _lookups: int = 0
    _of_source: Counter[str] = field(default_factory=Counter)

    async def addresses(self, host: str | bytes, port: object, source: str = "", /, **hints: int) -> Sequence[Address]:
        """`source`: who chose the name; `""`: we did. Raises `socket.gaierror`; that there was no answer in time is
        `EAI_AGAIN`."""
        key = (host, port, *sorted(hints.items()))
        name = self._remembered(key)
        now = self.clock.monotonic()
        if name.known is not None and now - name.known_at < FRESH_SECONDS:
            return name.known
        if name.asking is None:
            self._ask(name, host, port, hints, source)
        has_old = name.known is not None and now - name.known_at < STALE_SECONDS
        patience = PATIENCE_SECONDS if has_old else LOOKUP_SECONDS
        try:
            return await self._answer(name, name.started_at + patience - now)
        except (TimeoutError, socket.gaierror) as exc:
            if isinstance(exc, socket.gaierror) and exc.errno in _NO_SUCH_NAME:
                name.known = None
                raise
            if has_old and name.known is not None:
                return name.known
            if isinstance(exc, socket.gaierror):
                raise
            raise socket.gaierror(socket.EAI_AGAIN, "the name server does not answer") from None

    async def _answer(self, name: _Name, seconds: float) -> Sequence[Address]:
        asking = name.asking
        if asking is None:
            raise socket.gaierror(socket.EAI_AGAIN, "too many names are being looked up")
        if seconds > 0 and not asking.done():
            await asyncio.wait({asking}, timeout=seconds)
        if not asking.done():
            raise TimeoutError
        return asking.result()

    def _remembered(self, key: tuple[object, ...]) -> _Name:
        name = self._names.setdefault(key, _Name())
        self._names.move_to_end(key)
        if len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)
        return name

    def _ask(self, name: _Name, host: str | bytes, port: object, hints: dict[str, int], source: str) -> None:
        free = MAX_LOOKUPS - self._lookups
        if free <= 0 or (source and self._of_source[source] >= free):
            return
        loop = asyncio.get_running_loop()
        name.asking = loop.create_future()
        name.started_at = self.clock.monotonic()
        self._lookups += 1
        self._of_source[source] += 1

        def run() -> None:
            try:
                found: Sequence[Address] | Exception = self.look_up(host, port, **hints)
            except UnicodeError:  # an empty label, or one of more than 63 characters: Python's own codec refuses it
                found = socket.gaierror(socket.EAI_NONAME, "no name server can know such a name")
            except Exception as exc:  # noqa: BLE001  it is the answer
                found = exc
            try:
                loop.call_soon_threadsafe(self._learn, name, found, source)
            except RuntimeError:  # the loop is closed; the process ends
                return

        # A daemon: one that hangs does not keep the process from ending.
        threading.Thread(target=run, name=f"look up {host!r}", daemon=True).start()

    def _learn(self, name: _Name, found: Sequence[Address] | Exception, source: str) -> None:
        self._lookups -= 1
        self._of_source[source] -= 1
        if not self._of_source[source]:
            del self._of_source[source]
        asking, name.asking = name.asking, None
        if asking is None or asking.done():
            return
        if isinstance(found, Exception):
            asking.set_exception(found)
            asking.exception()  # perhaps no caller waits for it any more
        else:
            name.known, name.known_at = found, self.clock.monotonic()
            asking.set_result(found)


_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
