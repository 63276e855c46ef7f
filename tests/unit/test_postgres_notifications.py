"""LISTEN: a connection in trouble is given up and told once, whatever asyncpg calls the trouble."""

from __future__ import annotations

import asyncpg
import pytest

from app.adapters.postgres_notifications import Notifications


class Broken:
    """A connection that the server closed in the middle of an answer."""

    terminated = False

    def __init__(self, trouble: Exception) -> None:
        self._trouble = trouble

    def is_closed(self) -> bool:
        return False

    async def execute(self, query: str, *, timeout: float) -> None:
        raise self._trouble

    def terminate(self) -> None:
        self.terminated = True


@pytest.mark.parametrize(
    "trouble",
    [asyncpg.InternalClientError("another operation is in progress"), asyncpg.InterfaceError("closed"), OSError()],
    ids=lambda trouble: type(trouble).__name__,
)
async def test_a_connection_that_broke_is_dropped_and_the_wait_ends(
    trouble: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    notifications = Notifications("postgresql://nowhere.invalid/db")
    connection = notifications._connection = Broken(trouble)
    await notifications.wait(0.01)
    (line,) = [line for line in caplog.records if "no notifications" in line.getMessage()]
    assert line.levelname == "WARNING"
    assert type(trouble).__name__ in line.reason
    notifications._connection = Broken(trouble)  # once, not with every look
    await notifications.wait(0.01)
    assert len([line for line in caplog.records if "no notifications" in line.getMessage()]) == 1
    assert connection.terminated
    assert notifications._connection is None
