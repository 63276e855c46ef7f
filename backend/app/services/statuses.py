"""What WhatsApp reports about a message that we sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.domain.errors import Unprocessable
from app.domain.models import STATUS_RANK, Json, Status
from app.domain.ports import Store
from app.domain.webhook import REPORTED, event_time
from app.services.handover_notices import NOTICE_KEY, tell_of_failure
from app.services.ingest_service import Incoming


def outbound_key(incoming: Incoming) -> str | None:
    """Our own name of the message, if WhatsApp repeats it."""
    key = incoming.body["status"].get("biz_opaque_callback_data")
    return key if isinstance(key, str) else None


def in_fewer_steps(run: Sequence[Incoming]) -> list[Incoming | None]:
    """The statuses to apply in place of `run`: at the place of the first one of a message the one that ranks highest,
    nothing at the places of its others. Whatever place is reached, nothing before it is left to do. A failure stands
    for itself, and so does what has no rank."""
    steps: list[Incoming | None] = list(run)
    first: dict[tuple[str, str | None], tuple[int, int]] = {}
    for place, incoming in enumerate(run):
        status = incoming.body["status"]
        rank = STATUS_RANK.get(str(status.get("status")))
        if rank is None:
            continue
        message = str(status["id"]), outbound_key(incoming)
        where, highest = first.setdefault(message, (place, rank))
        if where == place:
            continue
        steps[place] = None
        if rank > highest:
            steps[where], first[message] = incoming, (where, rank)
    return steps


async def apply_status(store: Store, account_id: str, incoming: Incoming) -> tuple[str, str]:
    """Move one outbound message along. Returns the outcome, and why the message failed if it did. May be repeated."""
    status = incoming.body["status"]
    name = str(status.get("status"))
    if name not in REPORTED:  # queued by an earlier version
        raise Unprocessable("a status that is unknown")
    error = _first_error(status)
    known = await store.apply_status(
        account_id,
        wa_message_id=str(status["id"]),
        outbound_key=outbound_key(incoming),
        status=Status(name),
        timestamp=event_time(status.get("timestamp"), incoming.accepted_at),
        error=error,
    )
    reason = f"message failed: code {(error or {}).get('code')}" if name == Status.FAILED else ""
    if reason and (key := outbound_key(incoming) or "").startswith(NOTICE_KEY):
        tell_of_failure(key, reason)
    return ("applied" if known else "kept_for_later"), reason


def _first_error(status: Json) -> Json | None:
    errors = status.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    if not isinstance(first, Mapping):
        return None
    # The code says it all; what Meta writes beside it may quote the message and the number.
    code = first.get("code")
    return {"code": code if isinstance(code, int) else None}
