"""The one error the toolbox shares with everybody: a dependency cannot do useful work right now."""

from __future__ import annotations


class Unavailable(Exception):
    """`dependency` cannot serve anybody at the moment; the request itself was fine.

    An expected infrastructure failure: log it as a warning and count it, never as a bug.
    `retry_after` is in seconds, `None` when nobody told us.
    """

    def __init__(self, dependency: str, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message or f"{dependency} is unavailable")
        self.dependency = dependency
        self.retry_after = retry_after


class DeadlineExceeded(Unavailable):
    """The time set aside for the whole operation is used up; nothing more was tried."""


class Overloaded(Unavailable):
    """A limit of our own is reached; nothing was sent, and it says nothing about the dependency."""
