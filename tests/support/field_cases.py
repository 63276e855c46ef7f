"""The case files of tests/cases: inputs from the field, put into an envelope of a test's own account."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "cases" / "webhooks"
WABA_ID = "102290129340398"
RECENT = 86400 * 30
"""Times this near to when the cases were written become now: a message older than a day is another case."""
WRITTEN_AT = 1795728000


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def written(name: str) -> Any:
    """What the file holds, as it is."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def case(name: str, phone_number_id: str) -> dict[str, Any]:
    """A whole POST: the file is one `change`, only a `value`, or an envelope already."""
    content = written(name)
    if "entry" not in content:
        content = enveloped(content if "field" in content else {"field": "messages", "value": content})
    for entry in content["entry"]:
        for change in entry["changes"]:
            change["value"]["metadata"] = {
                "display_phone_number": "15550001111",
                "phone_number_id": phone_number_id,
            }
    _make_recent(content)
    return dict(content)


def enveloped(*changes: dict[str, Any], **entry: Any) -> dict[str, Any]:
    return {"object": "whatsapp_business_account", "entry": [{"id": WABA_ID, "changes": list(changes), **entry}]}


def _make_recent(value: Any) -> None:
    if isinstance(value, dict):
        written = value.get("timestamp")
        if isinstance(written, str) and abs(int(written) - WRITTEN_AT) < RECENT:
            value["timestamp"] = str(int(time.time()))
        for item in value.values():
            _make_recent(item)
    elif isinstance(value, list):
        for item in value:
            _make_recent(item)
