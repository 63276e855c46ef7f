"""What the outcome of a call says about the dependency."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from app.core.errors import DeadlineExceeded, Overloaded, Unavailable
from app.core.http_client import is_network_error, is_pool_full, status_error


class CircuitBreakerOpenError(Unavailable):
    """The call was not made: `dependency` has been failing, `why` says how. Come back in `retry_after` seconds."""

    args: tuple[str, float] | tuple[str, float, str]

    # Rejections come by the thousand: attributes and message are made when they are read.
    if not TYPE_CHECKING:
        __init__ = Exception.__init__
    else:

        def __init__(self, dependency: str, retry_after: float, why: str = "") -> None: ...

    @property
    def dependency(self) -> str:  # type: ignore[override]  # the base class writes it, this one reads `args`
        return self.args[0]

    @property
    def retry_after(self) -> float:  # type: ignore[override]  # as above
        return self.args[1]

    @property
    def why(self) -> str:
        return self.args[2] if len(self.args) > 2 else ""

    def __str__(self) -> str:
        return f"{self.dependency}: circuit open for {self.retry_after:.1f} s" + (f" ({self.why})" if self.why else "")


class Verdict(NamedTuple):
    """What a call's end says about the dependency. `hold_seconds`: the delay the upstream itself asked for. `cause`: a
    failure in words for people, filled in by the breaker. `named_seconds`: when the upstream says that it is back,
    which may be later than it makes sense to ask again. `ok`: the call returned; classifiers, which read exceptions,
    never say so."""

    failed: bool
    hold_seconds: float = 0.0
    cause: str = ""
    named_seconds: float = 0.0
    ok: bool = False

    @property
    def outcome(self) -> str:
        """As the tally counts it."""
        return "ok" if self.ok else "failed" if self.failed else "ignored"


OK = Verdict(failed=False, ok=True)
FAILED = Verdict(failed=True)
IGNORED = Verdict(failed=False)

Classify = Callable[[Exception], Verdict]


def default_classify(exc: Exception) -> Verdict:
    """`Unavailable`, network errors, timeouts and HTTP 5xx failed; anything else is this request's own trouble."""
    if isinstance(exc, (CircuitBreakerOpenError, DeadlineExceeded, Overloaded)) or is_pool_full(exc):
        return IGNORED
    if isinstance(exc, Unavailable):
        return Verdict(failed=True, hold_seconds=exc.retry_after or 0.0)
    status = status_error(exc)
    if status is not None:
        return Verdict(failed=True, hold_seconds=status[1] or 0.0) if status[0] >= 500 else IGNORED
    return FAILED if is_network_error(exc) else IGNORED
