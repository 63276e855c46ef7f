"""The fleet's circuits for the operator: what they are, and the last word on them."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum

from app.core.circuit_breaker import BreakerFleet, CircuitBreaker, KeyedCircuitBreakers, Snapshot, State, View
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.core.queue import Queue
from app.domain.errors import NotFound
from app.domain.identifiers import PHONE_NUMBER_ID
from app.domain.models import Json
from app.domain.webhook import Kind
from app.services.audit_service import AuditService

logger = logging.getLogger(__name__)

WAKE_AGAIN_SECONDS = 2.0
"""Longer than a replica takes to resync its circuits when a push was lost."""

SCOUTS = 10
"""Waiting conversations that are due when a circuit becomes half open: their calls decide whether it closes. More than
it needs, because some of them may wait for something else."""
WAKE_SPREAD_SECONDS = 0.2
"""Circuits of several dependencies that close together do not all go through the queue at the same moment."""


_ACCOUNT_KEY = re.compile(PHONE_NUMBER_ID)
_OTHER_KEY = re.compile(r"[\x21-\x7e]{1,100}")
"""A model's name."""


class BreakerAction(StrEnum):
    OPEN = "open"
    """Refuse every call, until told otherwise."""
    CLOSE = "close"
    """Let every call through, whatever fails, until told otherwise."""
    AUTO = "auto"
    """Closed, nothing counted, deciding by itself again."""


_STATES = {BreakerAction.OPEN: "open", BreakerAction.CLOSE: "closed", BreakerAction.AUTO: "auto"}


def _in_words(view: View) -> str:
    return f"{view.state.value}, forced" if view.forced else view.state.value


def words_of(row: Json) -> str:
    """Why a circuit is as it is, for people, by a row of `overview`. `""` if there is nothing to say."""
    parts = []
    if row.get("why"):
        about = [row["who"]] if row.get("who") else []
        if row.get("since_seconds") is not None:
            about.append(f"{row['since_seconds']:.0f} s ago")
        parts.append(row["why"] + (f" ({', '.join(about)})" if about else ""))
    if row.get("last_failure") and row["last_failure"] not in row.get("why", ""):
        parts.append(f"last failure: {row['last_failure']}")
    return "; ".join(parts)


def in_trouble(overview: Mapping[str, Mapping[str, object]]) -> dict[str, str]:
    """The circuits of an `overview` that are not closed, or count failures, with the reason in words."""
    return {
        name: f"{row['state']}{', forced' if row['forced'] else ''}: {words_of(row) or 'no reason known'}"
        for name, row in overview.items()
        if row["state"] != "closed" or row["forced"] or row["failure_count"]
    }


class BreakerService:
    """`breakers` by the short names that /health uses; `accounts` and `others` are families of keyed ones,
    by `<family>:<key>`.

    `audit` hears of what a person forces; without one the log alone has it.

    What waits in `queue` for a circuit is due at once when it closes: after good probes, by a person, or because the
    account has changed.
    """

    def __init__(
        self,
        fleet: BreakerFleet,
        breakers: Mapping[str, CircuitBreaker],
        accounts: KeyedCircuitBreakers,
        queue: Queue,
        *,
        others: Sequence[KeyedCircuitBreakers] = (),
        audit: AuditService | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._fleet = fleet
        self._breakers = breakers
        self._accounts = accounts
        self._keyed = (accounts, *others)
        self._queue = queue
        self._audit = audit
        self._clock = clock
        self._wakers: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Finish waking, about `WAKE_AGAIN_SECONDS`. Idempotent."""
        if self._wakers:
            await asyncio.wait(self._wakers)

    async def overview(self) -> dict[str, dict[str, object]]:
        """The service-wide circuits by short name, then the keyed ones in trouble by full name. While Redis is away, as
        this replica sees them (`scope`)."""
        full_names = {breaker.name: short for short, breaker in self._breakers.items()}
        try:
            states = await self._fleet.list(full_names)
        except Unavailable:
            snapshots = [breaker.snapshot() for breaker in self._breakers.values()]
            snapshots += [snapshot for family in self._keyed for snapshot in family.snapshots()]
            return {
                full_names.get(snapshot.name, snapshot.name): snapshot._asdict() | {"scope": "replica"}
                for snapshot in snapshots
            }
        return {full_names.get(name, name): self._row(name, state) for name, state in states.items()}

    async def of_account(self, phone_number_id: str) -> dict[str, object]:
        """The circuit of one account: a row as `overview` has them. While Redis is away, as this replica sees it."""
        name = f"{self._accounts.name}:{phone_number_id}"
        with suppress(Unavailable):  # what needs Redis more tells of it
            if state := (await self._fleet.list([name])).get(name):
                return self._row(name, state)
        own = self._accounts.find(phone_number_id)
        snapshot = own.snapshot() if own else Snapshot(name, State.CLOSED, 0, 0.0, forced=False)
        return snapshot._asdict() | {"scope": "replica"}

    async def force(self, name: str, action: BreakerAction, *, who: str, why: str) -> dict[str, object]:
        """For every replica, over restarts. One of an account or a model may be opened before its first failure; the
        other actions need one that Redis knows, or a mistyped number would look like success. Raises `NotFound`, and
        `Unavailable` while Redis is away."""
        full_name = self._full_name(name)
        before = (await self._fleet.list([full_name])).get(full_name)
        if action is not BreakerAction.OPEN and ":" in full_name and (before is None or not before.is_kept):
            raise NotFound("breaker")
        state = await self._fleet.force(full_name, _STATES[action], who=who, why=why)
        if self._audit is not None:
            old = _in_words(before) if before is not None else None
            changes = {"state": {"old": old, "new": _in_words(state)}, "why": {"old": None, "new": why}}
            await self._audit.note_breaker(full_name, changes)
        if action is not BreakerAction.OPEN:
            await self._wake(full_name)
        return self._row(full_name, state)

    async def account_changed(self, phone_number_id: str) -> None:
        """Its token, number or switch changed, or WhatsApp takes its messages again: what its circuit knows is out of
        date, and what waits for it is tried now. A circuit that a person forced stays. Raises `Unavailable`."""
        name = f"{self._accounts.name}:{phone_number_id}"
        state = (await self._fleet.list([name])).get(name)
        if state is None or not state.forced:
            await self._fleet.force(name, _STATES[BreakerAction.AUTO], who="chorus", why="the account has changed")
        await self._wake(name)

    def recovered(self, name: str, state: State) -> None:
        """This replica found the dependency of circuit `name` well: it is half open, or closed, for the fleet."""
        groups = self._waiting_for(name)
        if state is State.HALF_OPEN:
            self._soon(lambda: self._queue.wake(groups, most=SCOUTS), 0.0)
        else:
            self._soon(lambda: self._queue.wake(groups), WAKE_SPREAD_SECONDS * random.random())
            self._soon(lambda: self._queue.wake(groups), WAKE_AGAIN_SECONDS)

    async def _wake(self, full_name: str) -> None:
        """Twice: a replica that had not heard of the circuit's state may have put its conversations off again."""
        groups = self._waiting_for(full_name)
        await self._queue.wake(groups)
        self._soon(lambda: self._queue.wake(groups), WAKE_AGAIN_SECONDS)

    def _waiting_for(self, full_name: str) -> Sequence[str] | None:
        """Groups of the queue; `None`: all of them may."""
        family, _, number = full_name.partition(":")
        if family != self._accounts.name or not number:
            return None
        return [f"{kind}:{number}" for kind in (Kind.MESSAGE, Kind.OUTBOUND)]

    def _soon(self, wake: Callable[[], Awaitable[int]], seconds: float) -> None:
        task = asyncio.create_task(self._wake_after(wake, seconds), name="wake what waits")
        self._wakers.add(task)
        task.add_done_callback(self._wakers.discard)

    async def _wake_after(self, wake: Callable[[], Awaitable[int]], seconds: float) -> None:
        await self._clock.sleep(seconds)
        try:
            await wake()
        except Unavailable as exc:
            logger.warning("conversations wait for their own time", extra={"reason": str(exc)})

    def _full_name(self, name: str) -> str:
        if name in self._breakers:
            return self._breakers[name].name
        family, _, key = name.partition(":")
        form = _ACCOUNT_KEY if family == self._accounts.name else _OTHER_KEY
        if name in {breaker.name for breaker in self._breakers.values()} or (
            form.fullmatch(key) and family in {keyed.name for keyed in self._keyed}
        ):
            return name
        raise NotFound("breaker")

    def _row(self, name: str, view: View) -> dict[str, object]:
        return {
            "name": name,
            "state": view.state.value,
            "failure_count": view.failures,
            "retry_after": round(view.left_seconds, 1),
            "forced": view.forced,
            "scope": "fleet",
            "epoch": view.epoch,
            "failed_rounds": view.rounds,
            "who": view.who,
            "why": view.why,
            "last_failure": view.last_failure,
            "since_seconds": round(view.age_seconds, 1),
        }
