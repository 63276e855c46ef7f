"""Who runs a command, for the audit trail and for what every replica logs."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager


def operator_here() -> str:
    """The user of this machine."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        name = "unknown"
    return f"{name} (cli)"


@contextmanager
def as_operator() -> Iterator[None]:
    """What is changed in this block is this operator's doing."""
    from app.domain.audit import Actor, ActorKind, acting_as

    with acting_as(Actor(ActorKind.OPERATOR, operator_here())):
        yield
