"""One line of the report, and the frame in which each check runs: bounded, and never in the way of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from app.core.failure_words import place_of
from app.domain.errors import ConfigurationError

CHECK_TIMEOUT_SECONDS = 10.0

Check = Callable[[], Awaitable[list["Finding"]]]


@dataclass(frozen=True, slots=True)
class Finding:
    """`mend` says what to do; empty when all is well. A warning does not fail the check-up."""

    subject: str
    state: str
    detail: str = ""
    mend: str = ""

    @property
    def is_bad(self) -> bool:
        return self.state == "bad"


async def bounded(subject: str, check: Check, *, seconds: float = CHECK_TIMEOUT_SECONDS) -> list[Finding]:
    """What the check found. One that takes too long, or breaks, is a finding of its own; it hides no other. Raises
    `ConfigurationError`: a setting is wrong, and only the dependency could tell."""
    try:
        async with asyncio.timeout(seconds):
            return await check()
    except TimeoutError:
        return [Finding(subject, "bad", f"no answer within {seconds:.0f} s", "is it overloaded, frozen, or cut off?")]
    except ConfigurationError:
        raise
    except Exception as exc:  # noqa: BLE001  a bug in one check must not cost the report
        return [Finding(subject, "bad", f"the check failed: {place_of(exc)}", "please report this")]
