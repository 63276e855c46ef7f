"""What the replicas wrote, looked through for what must never be written."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

SECRET_WORD = "kumquat"
"""In every message and every reply, and nowhere in our own words: a log that has it has repeated a text."""
MARKER = r"#c\d+m\d+"
NAME = r"Customer \d+"
"""What the customers of a run are called."""
DIGITS = re.compile(r"(?=(\d{11}))")
"""As long as the phone numbers of the run; also inside of something longer."""


class LogWatch:
    """Collects everything, also of files that are emptied at a restart."""

    def __init__(self) -> None:
        self._seen: dict[Path, int] = {}
        self._texts: list[str] = []

    def look(self, log: Path) -> None:
        """Read what is new. Call it before a restart, which may empty the file, and at the end."""
        size = log.stat().st_size
        offset = self._seen.get(log, 0)
        if size < offset:
            offset = 0
        with log.open("rb") as file:
            file.seek(offset)
            self._texts.append(file.read().decode(errors="replace"))
        self._seen[log] = size

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def errors(self) -> Counter[str]:
        """Lines at level error by their words, and lines that are no JSON: each is a bug, or a fault of the run."""
        found: Counter[str] = Counter()
        for line in (line for text in self._texts for line in text.splitlines()):
            try:
                event = json.loads(line)
            except ValueError:
                found[line[:80]] += 1
                continue
            if event["level"] in ("error", "critical"):
                last = event.get("exception", "").splitlines()[-1:]
                found[" ".join([event["event"], *last])[:120]] += 1
        return found

    def webhook_seconds(self) -> list[float]:
        """What the replicas' own lines say that each 200 took, statuses included."""
        lines = (line for text in self._texts for line in text.splitlines() if '"event":"webhook"' in line)
        events = (json.loads(line) for line in lines if line.endswith("}"))
        return [event["ms"] / 1000 for event in events if event["status"] == 200]

    def secrets_in(self, secrets: Iterable[str], phones: Iterable[str]) -> list[str]:
        """Lines that contain a secret, a phone number, a name or a message's text; at most ten of them."""
        wanted = [re.escape(secret) for secret in secrets if secret]
        found = re.compile("|".join([*wanted, re.escape(SECRET_WORD), MARKER, NAME]), re.IGNORECASE)
        numbers = set(phones)
        leaks: list[str] = []
        for text in self._texts:
            leaks += [
                line for line in text.splitlines()
                if found.search(line) or any(digits in numbers for digits in DIGITS.findall(line))
            ]  # fmt: skip
        return leaks[:10]
