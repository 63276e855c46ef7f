"""`chorus breakers` and the check-up say why a circuit is as it is, whatever they know of it."""

from __future__ import annotations

from typing import Any

import pytest

from app.services.breaker_service import in_trouble, words_of

ROW: dict[str, Any] = {"state": "closed", "failure_count": 0, "retry_after": 0.0, "forced": False}


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({}, ""),
        (
            {"why": "failures: HTTP 400 API_KEY_INVALID", "who": "r1", "since_seconds": 12.3,
             "last_failure": "HTTP 400 API_KEY_INVALID"},
            "failures: HTTP 400 API_KEY_INVALID (r1, 12 s ago)",
        ),
        ({"why": "recovered", "last_failure": "HTTP 503"}, "recovered; last failure: HTTP 503"),
        ({"why": "", "last_failure": "HTTP 503"}, "last failure: HTTP 503"),
        ({"why": "by hand", "who": "anna (cli)", "since_seconds": 5.0}, "by hand (anna (cli), 5 s ago)"),
    ],
)  # fmt: skip
def test_a_circuit_is_explained_with_what_is_known(known: dict[str, Any], words: str) -> None:
    assert words_of(ROW | known) == words


def test_only_circuits_in_trouble_are_named() -> None:
    overview = {
        "gemini": ROW | {"state": "open", "why": "failures: HTTP 400 API_KEY_INVALID"},
        "whatsapp": ROW | {"failure_count": 1, "last_failure": "HTTP 503"},
        "supabase": ROW,
        "whatsapp_api:1": ROW | {"state": "closed", "forced": True, "why": "by hand"},
    }
    assert in_trouble(overview) == {
        "gemini": "open: failures: HTTP 400 API_KEY_INVALID",
        "whatsapp": "closed: last failure: HTTP 503",
        "whatsapp_api:1": "closed, forced: by hand",
    }
