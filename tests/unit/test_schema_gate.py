"""What a replica makes of what the database says of its schema."""

from __future__ import annotations

import asyncio
from typing import cast

from app.core.errors import Unavailable
from app.domain.ports import Store
from app.services.schema_gate import SchemaGate

REQUIRED = ("20260101000000_chorus_a", "20260102000000_chorus_b")


class Database:
    """Says `applied`; raises it if it is an error; hangs while it is `None`."""

    def __init__(self, applied: tuple[str, ...] | Exception | None) -> None:
        self.applied = applied

    async def applied_migrations(self) -> tuple[str, ...]:
        if self.applied is None:
            await asyncio.Event().wait()
        if isinstance(self.applied, Exception):
            raise self.applied
        return self.applied or ()

    async def schema_version(self) -> str | None:
        return None


def gate_on(database: Database) -> SchemaGate:
    return SchemaGate(cast("Store", database), REQUIRED)


async def test_what_is_not_known_keeps_no_replica_from_working() -> None:
    for silent in (Unavailable("database", "away"), None):
        gate = gate_on(Database(silent))
        await gate.look(timeout_seconds=0.01)
        assert gate.is_open()


async def test_a_database_that_goes_away_changes_nothing() -> None:
    database = Database(REQUIRED[:1])
    gate = gate_on(database)
    await gate.look()
    reason = gate.reason
    assert reason is not None
    database.applied = Unavailable("database", "away")
    await gate.look()
    assert gate.reason == reason


async def test_a_database_that_is_exchanged_for_an_older_copy_stops_the_work_until_it_is_migrated() -> None:
    database = Database(REQUIRED)
    gate = gate_on(database)
    await gate.look()
    assert gate.is_open()
    database.applied = REQUIRED[:1]
    await gate.look()
    assert gate.reason is not None
    assert REQUIRED[1] in gate.reason
    database.applied = REQUIRED
    await gate.look()
    assert gate.is_open()


async def test_a_loop_that_needs_the_schema_starts_when_it_is_there() -> None:
    database = Database(())
    gate = gate_on(database)
    await gate.look()
    started = asyncio.Event()

    async def loop() -> None:
        started.set()

    waiting = asyncio.create_task(gate.guarded(loop)())
    await asyncio.sleep(0)
    assert not started.is_set()
    database.applied = REQUIRED
    await gate.look()
    await waiting
    assert started.is_set()
