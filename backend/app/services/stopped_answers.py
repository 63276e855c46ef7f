"""What keeps answers from going out or messages from coming in, fleet-wide and in words: for `chorus doctor`."""

from __future__ import annotations

from app.services.arrivals import Arrivals
from app.services.breaker_service import BreakerService, in_trouble


async def stopped_answers(breakers: BreakerService, arrivals: Arrivals) -> dict[str, str]:
    """Reason by subject, empty if there is none. Raises `Unavailable` while Redis is away.

    {"circuit gemini": "open: failures: HTTP 400 API_KEY_INVALID (host-1-ab, 12 s ago)",
     "number 106540352242922": "silent for 4.2 h; 38 messages would have been usual"}
    """
    reasons = {f"circuit {name}": words for name, words in in_trouble(await breakers.overview()).items()}
    for each in await arrivals.silent():
        reasons[f"number {each.sender}"] = (
            f"silent for {each.seconds / 3600:.1f} h; {each.expected:.0f} messages would have been usual"
        )
    return reasons
