"""The errors that the toolbox shares with its users: raised on purpose, in words of ours."""

from __future__ import annotations

from enum import Enum, auto


class SharedBy(Enum):
    """Who waits for the same, where no circuit tells that it is back: if one of them gets it, all may try again."""

    ACCOUNT = auto()
    """The account's own calls: something of it is locked."""
    ALL = auto()
    """Every call: connections, memory, disk."""


class Expected(Exception):
    """Raised on purpose. Its text is ours: codes, ids, numbers, names of classes; never what a peer, a library or a
    customer wrote. That is why logs, dead letters and reasons may hold it; of every other exception they hold the type
    and the code (`core/failure_words.py`)."""


class Unavailable(Expected):
    """`dependency` serves no caller at the moment; the request itself was fine.

    An expected infrastructure failure: log it as a warning and count it, never as a bug.
    `retry_after` is in seconds, `None` when none was told. `shared_by`: set where the dependency lives and lacks
    something.
    """

    shared_by: SharedBy | None = None

    def __init__(self, dependency: str, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message or f"{dependency} is unavailable")
        self.dependency = dependency
        self.retry_after = retry_after


class DeadlineExceeded(Unavailable):
    """The time set aside for the whole operation is used up; nothing more was tried."""


class Overloaded(Unavailable):
    """A limit of our own is reached; nothing was sent, and it says nothing about the dependency."""


class SettingsError(Expected):
    """A setting is missing, contradictory or unsafe. `problems` maps the environment name to what to do."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in problems.items()))
        self.problems = problems
