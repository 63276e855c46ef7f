"""Where replicas tell each other what they saw of an upstream, so that one look serves all of them.

    turn = await board.turn("gemini", fresh_seconds=30, looker_seconds=5)
    if turn.is_mine: await board.report("gemini", look())
    else: show(turn.finding)                       # None: another replica looks for the first time right now

What it does not do: look, or decide what to do while Redis is away (it raises `Unavailable`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from app.core.redis.door import Door
from app.core.redis.script import Script

BOARD = Script("probe_board")
KEEP_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Turn:
    """`is_mine`: look, and report. `finding` is the last one, `age_seconds` old, made by replica `by`."""

    is_mine: bool
    age_seconds: float
    finding: Mapping[str, Any] | None
    by: str


class ProbeBoard:
    def __init__(self, door: Door, *, namespace: str, replica_id: str) -> None:
        self._door = door
        self._namespace = namespace
        self._replica_id = replica_id

    async def turn(self, name: str, *, fresh_seconds: float, looker_seconds: float) -> Turn:
        """Ask before looking at `name`. A looker has `looker_seconds`; after that it is another replica's turn."""
        mine, age_ms, seen, by = await self._run(name, "turn", int(fresh_seconds * 1000), int(looker_seconds * 1000))
        return Turn(bool(mine), max(0, age_ms) / 1000, orjson.loads(seen) if seen else None, by.decode())

    async def report(self, name: str, finding: Mapping[str, Any]) -> bool:
        """What was seen; `False` if it took too long and the turn was another replica's by then."""
        return bool(await self._run(name, "report", orjson.dumps(finding), KEEP_SECONDS * 1000))

    async def _run(self, name: str, verb: str, *args: Any) -> Any:
        return await self._door.run(BOARD, [f"{self._namespace}:{{probe}}:{name}"], [verb, self._replica_id, *args])
