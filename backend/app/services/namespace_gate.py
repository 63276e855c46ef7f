"""Does the Redis namespace belong to our database? Two fleets with one namespace and different databases take each
other's messages, and find no account for them.

    1. The first replica that sees both binds the namespace to the database (`Binding`).
    2. Another database: not ready, no webhook taken, no conversation claimed; asked again every second, so that
       `chorus queue rebind` is enough. `chorus serve` does not even start.
    3. One of the two is away at the start: unknown. Webhooks are taken, nothing is claimed; asked again every second.
    4. Once it was ours this replica works on. If it is another's later (Redis was wiped and another fleet was faster,
       or the database was exchanged) that is told, and people decide: to stop everything would be worse.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.core.failure_words import in_words
from app.core.queue import Event, PutResult
from app.core.redis.door import Door
from app.core.redis.script import Script
from app.domain.ports import Store

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0
OURS_SECONDS = 15.0
"""A namespace that was ours is looked at again: a Redis that was wiped must not be free for another fleet."""
LOOK_SECONDS = 10.0
BIND = Script("namespace_bind")


class Destination(Protocol):
    async def put(self, events: Sequence[Event]) -> PutResult: ...


def short(identity: str) -> str:
    """Enough to tell two databases from each other: `3f2a91c0@…8812/16384`."""
    origin, _, place = identity.partition("@")
    cluster, _, database = place.partition("/")
    return f"{origin[:8]}@…{cluster[-6:]}/{database}"


def contradiction(namespace: str, setting: str, bound: str, ours: str) -> str:
    """In words: what is wrong, and both databases."""
    what = (
        "a copy of this database, or this one from before a move" if _same_origin(bound, ours) else "another database"
    )
    return f"namespace {namespace} of {setting} belongs to {what} ({short(bound)}); this one is {short(ours)}"


MEND = "set another REDIS_NAMESPACE; after a deliberate move of the database: `chorus queue rebind`"


class Binding:
    """Whose the keys of one namespace on one Redis are: the first identity's that asks, until an operator says
    otherwise. Keeps none out. Raises `Unavailable`."""

    def __init__(self, door: Door, *, namespace: str) -> None:
        self._door = door
        self._key = f"{namespace}:{{fleet}}:database"

    async def read(self) -> str | None:
        """`None`: it belongs to none yet."""
        return await self._run("read", "") or None

    async def bind(self, identity: str) -> str:
        """Make it ours unless it is another's; whose it is."""
        return await self._run("bind", identity) or identity

    async def rebind(self, identity: str) -> str | None:
        """Make it ours, whosever it was; whose that was."""
        return await self._run("rebind", identity) or None

    async def _run(self, verb: str, identity: str) -> str:
        return str(await self._door.run(BIND, [self._key], [verb, identity]), "utf-8")


class NamespaceGate:
    """`bindings`: of each Redis in use, by the setting that names it."""

    def __init__(
        self, store: Store, bindings: Mapping[str, Binding], *, namespace: str, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._store = store
        self._bindings = bindings
        self._namespace = namespace
        self._clock = clock
        self._ours = asyncio.Event()
        self.contradiction: str | None = None
        """What the last look found wrong, in words."""

    @property
    def reason(self) -> str | None:
        """Why this replica must not work; `None` if it may, or if that is not known."""
        return None if self._ours.is_set() else self.contradiction

    def is_open(self) -> bool:
        """May this replica claim? Only once the namespace is known to be ours."""
        return self._ours.is_set()

    async def look(self, *, timeout_seconds: float = LOOK_SECONDS) -> None:
        """Ask both. One that does not answer in time changes nothing."""
        try:
            async with asyncio.timeout(timeout_seconds):
                identity = await self._store.database_identity()
                wrong = [
                    contradiction(self._namespace, setting, bound, identity)
                    for setting, binding in self._bindings.items()
                    if (bound := await binding.bind(identity)) != identity
                ]
        except (Unavailable, TimeoutError) as exc:
            logger.debug("namespace not looked at", extra={"reason": in_words(exc)})
            return
        self._settle("; ".join(wrong) or None)

    async def run(self, beat: Callable[[], None]) -> None:
        """Until cancelled."""
        while True:
            beat()
            await self._clock.sleep(OURS_SECONDS if self.is_open() and not self.contradiction else AGAIN_SECONDS)
            await self.look()

    def guarded(self, loop: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """`loop`, started only once the namespace is known to be ours."""

        async def waiting() -> None:
            await self._ours.wait()
            await loop()

        return waiting

    def before(self, destination: Destination) -> Destination:
        """`destination`, which takes nothing while the namespace is known to be another's."""
        return _Guarded(self, destination)

    def _settle(self, wrong: str | None) -> None:
        if wrong != self.contradiction:
            if wrong is None:
                logger.warning("the Redis namespace is this database's, this replica works")
            elif self.is_open():
                logger.error("the Redis namespace is no longer this database's", extra={"reason": f"{wrong}; {MEND}"})
            else:
                logger.error("this replica does not work", extra={"reason": f"{wrong}; {MEND}"})
        self.contradiction = wrong
        if wrong is None:
            self._ours.set()


class _Guarded:
    def __init__(self, gate: NamespaceGate, destination: Destination) -> None:
        self._gate = gate
        self._destination = destination

    async def put(self, events: Sequence[Event]) -> PutResult:
        if (reason := self._gate.reason) is not None:
            raise Unavailable("queue", reason, retry_after=AGAIN_SECONDS)
        return await self._destination.put(events)


def _same_origin(one: str, other: str) -> bool:
    return one.partition("@")[0] == other.partition("@")[0]
