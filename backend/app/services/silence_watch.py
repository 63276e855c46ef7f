"""Numbers whose customers usually write and have gone quiet: one replica looks for all, every replica shows it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from prometheus_client import Gauge

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Unavailable
from app.core.fleet.probe_board import ProbeBoard
from app.services.arrivals import Arrivals

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 10.0
FRESH_SECONDS = 60.0
LOOKER_SECONDS = 20.0
MAX_SHOWN = 100
BOARD = "silent_numbers"

SILENT = Gauge("chorus_silent_numbers", "Numbers whose customers usually write and have been quiet for too long")


class SilenceWatch:
    """`silent`: the finding, as /health and /admin/silent-numbers show it. Which number it is never becomes a label."""

    def __init__(self, arrivals: Arrivals, board: ProbeBoard, clock: Clock = SYSTEM_CLOCK) -> None:
        self._arrivals = arrivals
        self._board = board
        self._clock = clock
        self.silent: list[Mapping[str, object]] = []

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._clock.sleep(FLUSH_SECONDS)
            try:
                await self._arrivals.flush()
                await self.look()
            except Unavailable as exc:
                logger.warning("arrivals not shared", extra={"reason": str(exc)})

    async def look(self) -> None:
        """Look, if it is this replica's turn, else learn what another one saw. Raises `Unavailable`."""
        turn = await self._board.turn(BOARD, fresh_seconds=FRESH_SECONDS, looker_seconds=LOOKER_SECONDS)
        known = turn.finding or {"numbers": [], "count": 0}
        if turn.is_mine:
            found = await self._arrivals.silent()
            numbers = [
                {"phone_number_id": each.sender, "silent_seconds": round(each.seconds), "usual_messages": each.expected}
                for each in found[:MAX_SHOWN]
            ]
            _tell({number["phone_number_id"] for number in known["numbers"]}, numbers)
            known = {"numbers": numbers, "count": len(found)}
            await self._board.report(BOARD, known)
        self.silent = known["numbers"]
        SILENT.set(known["count"])


def _tell(before: set[str], numbers: list[dict[str, object]]) -> None:
    """What has changed since the last look, whichever replica had that."""
    for number in numbers:
        if number["phone_number_id"] not in before:
            logger.warning("a number whose customers usually write is silent", extra=number)
    for phone_number_id in before - {number["phone_number_id"] for number in numbers}:
        logger.warning("a silent number receives again", extra={"phone_number_id": phone_number_id})
