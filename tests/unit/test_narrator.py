"""The demo's narrator: what the replicas' logs mean, each event told once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app.core.logging import trace_of
from app.demo.narrator import LogTail, Narrator

OPENED = "Circuit breaker 'gemini_api': seuil d'échecs atteint (5/5), ouverture du circuit"
PROBED = "Circuit breaker 'gemini_api': tentative de récupération (HALF_OPEN)"
CLOSED = "Circuit breaker 'gemini_api': récupération réussie (CLOSED)"


def entry(event: str, **fields: Any) -> dict[str, Any]:
    return {"event": event, **fields}


def test_an_outage_of_the_model_is_told_from_its_start_to_its_end() -> None:
    narrator = Narrator()
    (opened,) = narrator.sentences("replica-1", entry(OPENED, open_seconds=60.0))
    (probed,) = narrator.sentences("replica-3", entry(PROBED))
    (closed,) = narrator.sentences("replica-3", entry(CLOSED))
    assert "gemini_api: open, says replica-1" in opened
    assert "next probe in 60.0 s" in opened
    assert "half open" in probed
    assert "gemini_api: closed, says replica-3" in closed


def test_what_every_replica_logs_is_told_once() -> None:
    narrator = Narrator()
    heard = entry("Circuit breaker 'gemini_api': open for the fleet by replica-1 (failures)", state="open")
    told = [
        *narrator.sentences("replica-1", entry(OPENED)),
        *narrator.sentences("replica-2", heard),
        *narrator.sentences("replica-2", entry("dependency lost", dependency="redis", reason="refused")),
        *narrator.sentences("replica-3", entry("dependency lost", dependency="redis", reason="refused")),
        *narrator.sentences("replica-3", entry("dependency back", dependency="redis", lost_seconds=2.5)),
        *narrator.sentences("replica-2", entry("dependency back", dependency="redis", lost_seconds=2.6)),
    ]
    assert len(told) == 3
    assert told[1] == "redis is lost, says replica-2: refused"
    assert told[2] == "redis is back after 2.5 s, says replica-3"


@pytest.mark.parametrize(("attempt", "sentences"), [(1, 0), (2, 1)])
def test_a_second_attempt_is_a_take_over(attempt: int, sentences: int) -> None:
    narrator = Narrator()
    handled = entry("handled", outcome="replied", attempt=attempt, messages=[trace_of("wamid.1")])
    assert len(narrator.sentences("replica-2", handled)) == sentences
    assert narrator.worker_of("wamid.1") == "replica-2"
    assert narrator.worker_of("wamid.2") == "?"


def test_a_log_is_read_by_whole_lines_and_from_its_start_when_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "replica.log"
    path.write_text(json.dumps(entry("before")) + "\n")
    tail = LogTail(path)
    with path.open("a") as log:
        log.write('{"event":"one"}\nTraceback (most recent call last):\n{"event":')
        log.flush()
        assert tail.entries() == [entry("one")]
        log.write('"two"}\n')
        log.flush()
        assert tail.entries() == [entry("two")]
    path.write_text('{"event":"x"}\n')
    assert tail.entries() == [entry("x")]
