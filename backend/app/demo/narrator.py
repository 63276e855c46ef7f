"""What the replicas' logs tell, in sentences for the person who watches the demo."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from app.core.logging import trace_of

MAX_REMEMBERED = 1000
CIRCUIT = "Circuit breaker "
STATES = {"closed": "closed", "open": "open", "half_open": "half open: one call at a time goes through as a probe"}

Entry = Mapping[str, Any]


class LogTail:
    """The lines that were added to a log since the last look. A log that became shorter is read from its start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def entries(self) -> list[Entry]:
        """Whole lines that are JSON objects; others (a traceback, say) are left out."""
        try:
            with self._path.open("rb") as log:
                if log.seek(0, 2) < self._offset:
                    self._offset, self._rest = 0, b""
                log.seek(self._offset)
                data = log.read()
        except FileNotFoundError:
            return []
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [entry for line in lines if (entry := _parsed(line)) is not None]


class Narrator:
    """Turns log entries into sentences, each event once although every replica logs it."""

    def __init__(self) -> None:
        self._circuits: dict[str, str] = {}
        self._lost: set[str] = set()
        self._handled_by: OrderedDict[str, str] = OrderedDict()

    def worker_of(self, message_id: str) -> str:
        """The replica that answered the message, "?" if no log has said so yet."""
        return self._handled_by.get(trace_of(message_id), "?")

    def sentences(self, replica: str, entry: Entry) -> list[str]:
        """What this entry of this replica's log means, if it is news."""
        event = str(entry.get("event", ""))
        if event.startswith(CIRCUIT):
            return self._circuit(replica, event, entry)
        if event == "dependency lost":
            return self._dependency(replica, str(entry.get("dependency")), entry, is_lost=True)
        if event == "dependency back":
            return self._dependency(replica, str(entry.get("dependency")), entry, is_lost=False)
        if event == "handled":
            return self._handled(replica, entry)
        return []

    def _circuit(self, replica: str, event: str, entry: Entry) -> list[str]:
        name = event.removeprefix(CIRCUIT).split("'")[1]
        state = "open" if "ouverture" in event or "opening" in event else str(entry.get("state", ""))
        if "(HALF_OPEN)" in event:
            state = "half_open"
        elif "(CLOSED)" in event:
            state = "closed"
        if state not in STATES or self._circuits.get(name, "closed") == state:
            return []
        self._circuits[name] = state
        told = f"circuit {name}: {STATES[state]}, says {replica}, and the fleet follows"
        if state == "open":
            why = f" ({entry['reason']})" if entry.get("reason") else ""
            told += f"{why}; next probe in {entry.get('open_seconds', '?')} s, questions wait until then"
        return [told]

    def _dependency(self, replica: str, name: str, entry: Entry, *, is_lost: bool) -> list[str]:
        if is_lost == (name in self._lost):
            return []
        (self._lost.add if is_lost else self._lost.discard)(name)
        if is_lost:
            return [f"{name} is lost, says {replica}: {entry.get('reason')}"]
        return [f"{name} is back after {entry.get('lost_seconds')} s, says {replica}"]

    def _handled(self, replica: str, entry: Entry) -> list[str]:
        if entry.get("outcome") != "replied":
            return []
        for message in entry.get("messages", ()):
            self._handled_by[message] = replica
        while len(self._handled_by) > MAX_REMEMBERED:
            self._handled_by.popitem(last=False)
        if entry.get("attempt", 1) > 1:
            return [f"taken over: {replica} answered a conversation that another worker could not finish"]
        return []


def _parsed(line: bytes) -> Entry | None:
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return entry if isinstance(entry, dict) else None
