"""The loop of every replica that works: claim what is due, handle it, tell the queue how it went.

What an error means for a queued event:

    Unprocessable (UnknownAccount)   dead letter with the reason, replayable; the conversation goes on
    Postponed, Unavailable,          back into the mailbox for later, attempt not counted:
      SendThrottled, AccountRejected nothing is wrong with the event
    Fenced, LeaseLost                nothing: another worker has the conversation
    Erased                           finished, by the services: the customer was erased, there is nothing to store
    cancelled by drain               back at once, attempt not counted
    anything else                    a failed attempt; back with growing delay, at the maximum a dead letter
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from prometheus_client import Counter, Histogram

from app.core.errors import SharedBy
from app.core.failure_words import in_words, one_line, place_of
from app.core.logging import bind_messages, log_canonical
from app.core.queue import Claim, Event, LeaseLost, Queue
from app.core.redaction import redact
from app.core.slots import Caller, Rank, calling_as
from app.core.tracing import is_on, span
from app.domain.errors import (
    AccountRejected,
    ChorusError,
    Fenced,
    SendThrottled,
    Unavailable,
    UnknownAccount,
    Unprocessable,
)
from app.domain.webhook import Kind, to_inbound
from app.services.account_notices import AccountNotices
from app.services.bot_service import BotService
from app.services.claim_loop import ClaimLoop, Room
from app.services.claim_room import ClaimRoom
from app.services.conversation_service import ConversationService
from app.services.dead_letters import about
from app.services.delivery import ACCOUNT_RETRY_SECONDS, Postponed
from app.services.ingest_service import Incoming, decode, trace_carrier, whatsapp_id
from app.services.run import Handled, Run
from app.services.statuses import in_fewer_steps

logger = logging.getLogger(__name__)

UNAVAILABLE_RETRY_SECONDS = 2.0
THROTTLED_RETRY_SECONDS = 6.0
"""The pair rate is one message per 6 s (Cloud API, error 131056)."""
FAILED_RETRY_SECONDS = 2.0
FAILED_RETRY_CAP_SECONDS = 60.0
JITTER_CAP_SECONDS = 5.0
MAX_LACKING = 1000
GROUP_SHARE = 0.8
"""Most of the slots that one account's conversations may take. When the model or WhatsApp hangs for an account, every
slot it has stays taken until a timeout: a fifth is enough to go on serving the others, and all that an account which is
alone on its replica goes without."""

HANDLED = Counter("chorus_handled_total", "Claims handled, by kind and outcome", ["kind", "outcome"])
HANDLE_SECONDS = Histogram("chorus_handle_seconds", "Time from claim to queue verdict", ["kind"])
END_TO_END_SECONDS = Histogram(
    "chorus_end_to_end_seconds",
    "From the webhook's 200 to the accepted send",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600),
)


async def _nothing(_events: Sequence[Event]) -> None:
    """Nothing else wants to know."""


class InboxWorker:
    """At most `concurrency` conversations at a time (`ClaimRoom`), `GROUP_SHARE` of them of one account; never more
    claimed than can be worked on."""

    def __init__(
        self,
        queue: Queue,
        bot: BotService,
        conversations: ConversationService,
        notices: AccountNotices,
        *,
        concurrency: int,
        lag_seconds: Callable[[], float] = lambda: 0.0,
        on_beat: Callable[[], None] = lambda: None,
        on_queue_away: Callable[[], None] = lambda: None,
        may_claim: Callable[[], bool] = lambda: True,
        is_cut_off: Callable[[], bool] = lambda: False,
        on_handled: Callable[[Sequence[Event]], Awaitable[None]] = _nothing,
    ) -> None:
        """`lag_seconds`: of the event loop; while it is late, fewer are held. `may_claim`: asked before every claim;
        while it says no, nothing new is taken. `is_cut_off`: nothing new either, and what is held goes back at once, to
        replicas that can do it. `on_handled`: awaited before the queue is told; if it raises `Unavailable`, the events
        are handled again."""
        self._queue = queue
        self._bot = bot
        self._conversations = conversations
        self._notices = notices
        self._claim_room = ClaimRoom(concurrency, lag_seconds)
        self._may_claim = may_claim
        self._is_cut_off = is_cut_off
        self._was_cut_off = False
        self._on_handled = on_handled
        self._acted: set[int] = set()
        """Tokens of the claims for which something irrevocable may have been done: they are brought to their end."""
        self._lacking: dict[str, SharedBy] = {}
        """Mailboxes put off for what the database lacks, by who waits for the same."""
        self.loop = ClaimLoop(
            queue, self._handle, room=self._room_now, may_claim=self._claims_now, on_beat=on_beat,
            on_queue_away=on_queue_away,
        )  # fmt: skip

    def _room_now(self, held: int) -> Room:
        room = self._claim_room.look(held)
        return Room(room - held, max(1, int(room * GROUP_SHARE)))

    def _claims_now(self) -> bool:
        return not self._leaves_work_to_others() and self._may_claim()

    def _leaves_work_to_others(self) -> bool:
        is_cut_off = self._is_cut_off()
        if is_cut_off:
            self.loop.cancel("cut off", lambda claim: claim.token not in self._acted)
        if is_cut_off != self._was_cut_off:
            self._was_cut_off = is_cut_off
            if is_cut_off:
                logger.warning("cut off: claiming nothing, giving back what is held", extra={"held": self.loop.active})
            else:
                logger.warning("claiming again", extra={"held": self.loop.active})
        return is_cut_off

    async def _handle(self, claim: Claim) -> None:
        started = time.perf_counter()
        bind_messages([whatsapp_id(event) for event in claim.events])
        kind, _, _ = claim.mailbox.partition(":")
        result = Handled("cancelled", 0)
        try:
            with (
                calling_as(Caller(Rank.BACKGROUND, _account_of(claim))),
                span("handle", parent=trace_carrier(claim.events[0]) if is_on() else None, kind=kind),
            ):
                result = await self._dispatch(kind, claim)
            await self._on_handled(claim.events[: result.count])
            await self.loop.tell(lambda: self._queue.done(claim, result.count))
            if shared_by := self._lacking.pop(claim.mailbox, None):
                await self._wake(claim, shared_by)
        except asyncio.CancelledError as exc:
            result.reason = one_line(str(exc)) or "interrupted"
            # Lease lost: the token no longer stands and this is a no-op. Drain: another replica has it at once.
            try:
                await asyncio.shield(self._give_back(claim, 0.0, "interrupted"))
            except Unavailable as unavailable:
                logger.warning("not given back; its lease will run out", extra={"reason": in_words(unavailable)})
            raise
        except Exception as exc:  # noqa: BLE001  every error must become a verdict, or the conversation waits for its lease
            result.reason = _reason(exc)
            result.outcome = await self._verdict(claim, exc, result.reason)
        finally:
            self._acted.discard(claim.token)
            seconds = time.perf_counter() - started
            HANDLED.labels(kind, result.outcome).inc()
            HANDLE_SECONDS.labels(kind).observe(seconds)
            if result.outcome == "replied":
                END_TO_END_SECONDS.observe(max(0.0, time.time() - claim.events[0].accepted_at))
            log_canonical(
                "handled",
                kind=kind,
                outcome=result.outcome,
                reason=result.reason,
                events=len(claim.events),
                attempt=claim.attempts + 1,
                token=claim.token,
                ms=round(seconds * 1000, 2),
                stages_ms=result.stages,
            )

    async def _dispatch(self, kind: str, claim: Claim) -> Handled:
        if kind == Kind.MESSAGE:
            return await self._bot.handle(_run(claim), self._hold(claim))
        one: Mapping[str, Callable[[Incoming], Awaitable[str | tuple[str, str]]]] = {
            Kind.STATUS: self._conversations.apply_status,
            Kind.ECHO: self._conversations.receive_echo,
            Kind.OUTBOUND: lambda incoming: self._conversations.send_human(incoming, self._hold(claim)),
            Kind.NOTICE: self._notices.receive,
            Kind.UNKNOWN: _refuse,
        }
        incoming = _readable(claim.events)
        steps = in_fewer_steps(incoming) if kind == Kind.STATUS else incoming
        outcome = reason = ""
        for index, step in enumerate(steps):
            if step is None:
                continue
            try:
                said = await one[kind](step)
            except Exception:
                if index == 0:
                    raise
                # What went well is finished; the one in trouble becomes the head and is judged alone.
                return Handled(outcome, index, reason=reason)
            outcome, reason = said if isinstance(said, tuple) else (said, "")
        return Handled(str(outcome), len(steps), reason=reason)

    def _hold(self, claim: Claim) -> _Hold:
        return _Hold(self._queue, claim, self._acted)

    async def _verdict(self, claim: Claim, exc: Exception, reason: str) -> str:
        """Tell the queue what the error means (table above). Returns the outcome for the log."""
        try:
            match exc:
                case Fenced() | LeaseLost():
                    return "fenced"
                case Unprocessable():
                    count = len(claim.events) if isinstance(exc, UnknownAccount) else 1
                    if await self.loop.tell(lambda: self._queue.park(claim, count, reason)):
                        _tell_given_up(claim, count, reason)
                    return "parked"
                case Postponed():
                    await self._give_back(claim, exc.delay_seconds, reason, spread=not exc.is_punctual)
                    return "postponed"
                case Unavailable():
                    if exc.shared_by:
                        self._note_lacking(claim.mailbox, exc.shared_by)
                    await self._give_back(claim, exc.retry_after or UNAVAILABLE_RETRY_SECONDS, reason)
                    return "unavailable"
                case AccountRejected():
                    await self._give_back(claim, exc.retry_after or ACCOUNT_RETRY_SECONDS, reason)
                    return "account_rejected"
                case SendThrottled():
                    await self._give_back(claim, exc.retry_after or THROTTLED_RETRY_SECONDS, reason)
                    return "throttled"
                case _:
                    return await self._failed(claim, exc, reason)
        except Unavailable as unavailable:
            # The lease runs out and another worker takes over; what was done is found again.
            logger.warning("verdict not delivered", extra={"reason": str(unavailable)})
            return "verdict_lost"

    async def _failed(self, claim: Claim, exc: Exception, reason: str) -> str:
        expected = isinstance(exc, ChorusError)
        logger.log(
            logging.WARNING if expected else logging.ERROR,
            "handling failed",
            exc_info=None if expected else exc,
            extra={"attempt": claim.attempts + 1, "reason": reason},
        )
        delay = min(FAILED_RETRY_CAP_SECONDS, FAILED_RETRY_SECONDS * 2**claim.attempts) * (0.5 + random.random())
        parked = await self.loop.tell(lambda: self._queue.retry_later(claim, delay, counted=True, reason=reason))
        if parked:
            _tell_given_up(claim, 1, reason)
        return "parked" if parked else "failed"

    async def _give_back(self, claim: Claim, delay_seconds: float, reason: str, *, spread: bool = True) -> None:
        if self._is_cut_off():
            delay_seconds = 0.0  # what we cannot do another replica can, now
        delay = delay_seconds
        if spread:
            # What waited for one recovery must not arrive all at once. Bounded: a deadline may end the wait.
            delay += min(0.2 * delay_seconds, JITTER_CAP_SECONDS) * random.random()
        await self.loop.tell(lambda: self._queue.retry_later(claim, delay, counted=False, reason=reason))

    def _note_lacking(self, mailbox: str, shared_by: SharedBy) -> None:
        if len(self._lacking) >= MAX_LACKING:
            self._lacking.clear()  # other replicas may have served them
        self._lacking[mailbox] = shared_by

    async def _wake(self, claim: Claim, shared_by: SharedBy) -> None:
        """One that waited for the database got what it lacked: so may the others."""
        number = _account_of(claim)
        groups = None if shared_by is SharedBy.ALL else [f"{kind}:{number}" for kind in Kind]
        with suppress(Unavailable):  # then each comes in its own time
            await self._queue.wake(groups)


@dataclass(frozen=True, slots=True)
class _Hold:
    """A claim as the services see it."""

    queue: Queue
    claim: Claim
    acted: set[int]

    @property
    def fence(self) -> int:
        return self.claim.token

    def ensure_held(self) -> None:
        if not self.claim.is_held():
            raise Fenced("the lease may have ended")
        self.acted.add(self.claim.token)

    async def refresh(self) -> Run:
        return _run(await self.queue.refresh(self.claim))


def _account_of(claim: Claim) -> str:
    """Whose share of the database a claim uses: the number in the mailbox's name, where there is one."""
    return claim.mailbox.partition(":")[2].partition(":")[0]


def _run(claim: Claim) -> Run:
    incoming = [decode(event) for event in claim.events]
    last = incoming[-1].body
    return Run(
        phone_number_id=incoming[0].phone_number_id,
        wa_id=last["wa_id"],
        user_id=last["user_id"],
        name=next((i.body["name"] for i in reversed(incoming) if i.body["name"]), None),
        messages=tuple(to_inbound(i.body["message"], i.accepted_at) for i in incoming),
        accepted_at=incoming[0].accepted_at,
        other_wa_id=last.get("other_wa_id"),
    )


def _tell_given_up(claim: Claim, count: int, reason: str) -> None:
    for event in claim.events[:count]:
        logger.warning(
            "event given up on: it is a dead letter",
            extra={**about(event), "reason": reason, "attempt": claim.attempts + 1},
        )


def _reason(exc: Exception) -> str:
    """For the canonical line and the dead letter: codes and ids. A bug's own text may quote a customer."""
    match exc:
        case Unprocessable():
            return redact(one_line(exc.reason))
        case Postponed():
            return redact(one_line(str(exc)))
        case Unavailable():
            return f"{exc.dependency}: {in_words(exc)}"
        case ChorusError() | LeaseLost():
            return in_words(exc)
        case _:
            return place_of(exc)


def _readable(events: Sequence[Event]) -> list[Incoming]:
    """Decoded, up to the first one that cannot be: it becomes the head and is judged alone. Raises what that one
    raises if it is the head."""
    found: list[Incoming] = []
    for event in events:
        try:
            found.append(decode(event))
        except Exception:
            if not found:
                raise
            break
    return found


async def _refuse(incoming: Incoming) -> str:
    raise Unprocessable(str(incoming.body["reason"]))
