"""Errors in words: one short line that every server takes, without secrets; a bug by its place."""

from __future__ import annotations

import pytest
from asyncpg import CheckViolationError

from app.core.errors import DeadlineExceeded, Unavailable
from app.core.failure_words import in_words, one_line, place_of, trace_back
from app.core.http_client import ConnectFailed, HttpError
from app.domain.errors import AccountRejected
from app.domain.models import BlockReason


@pytest.mark.parametrize(
    ("exc", "words"),
    [
        (Unavailable("gemini", "gemini: HTTP 400 API_KEY_INVALID"), "HTTP 400 API_KEY_INVALID"),
        (Unavailable("redis"), "redis is unavailable"),
        (DeadlineExceeded("gemini", "gemini: only 0.1 s were left"), "only 0.1 s were left"),
        (ConnectFailed("ConnectError"), "ConnectFailed: ConnectError"),
        (TimeoutError(), "TimeoutError"),
        (
            AccountRejected("HTTP 401, code 190", wa_code=190, reason=BlockReason.TOKEN_INVALID),
            "AccountRejected: HTTP 401, code 190",
        ),
        (HttpError("a\r\n  b\tc"), "HttpError: a b c"),
        (HttpError("half \ud83d"), "HttpError: half ?"),
        (HttpError("to 3361234567 with Bearer abc.def"), "HttpError: to [redacted] with Bearer [redacted]"),
        (HttpError("x" * 500), "HttpError: " + "x" * 189),
        (ValueError("Amina"), "ValueError"),
        (ConnectionRefusedError(111, "Amina refused"), "ConnectionRefusedError 111"),
        (CheckViolationError("Failing row contains (7, Amina, 0612345678)"), "CheckViolationError 23514"),
    ],
)
def test_an_error_is_one_short_line(exc: Exception, words: str) -> None:
    assert in_words(exc) == words


def test_a_bug_is_told_by_the_line_that_raised_it() -> None:
    def stumble() -> None:
        raise KeyError("Amina")

    with pytest.raises(KeyError) as caught:
        stumble()
    line = stumble.__code__.co_firstlineno + 1
    assert place_of(caught.value) == f"KeyError in test_failure_words.py:{line}"
    assert place_of(KeyError("Amina")) == "KeyError"


def test_a_traceback_has_places_types_and_codes_of_the_whole_chain_and_no_text_of_others() -> None:
    def fail() -> None:
        try:
            raise CheckViolationError("Failing row contains (7, Amina, 0612345678)")
        except CheckViolationError as exc:
            raise ExceptionGroup("of Amina", [KeyError("Amina"), Unavailable("redis", "redis: gone")]) from exc

    with pytest.raises(ExceptionGroup) as caught:
        fail()
    text = trace_back(caught.value)
    assert "Amina" not in text.replace('"Failing row contains (7, Amina', "").replace('"of Amina"', "").replace(
        'KeyError("Amina")', ""
    ), "but for the lines of the source"
    first, _, second = text.partition("The above exception was the direct cause")
    assert first.rstrip().endswith("asyncpg.exceptions.CheckViolationError: 23514")
    assert "in fail" in first
    assert second.splitlines()[-3:] == [
        "ExceptionGroup",
        "  | KeyError",
        "  | app.core.errors.Unavailable: redis: gone",
    ]


def test_a_traceback_ends_also_when_errors_are_each_others_cause() -> None:
    first, second = KeyError(1), KeyError(2)
    first.__cause__, second.__cause__ = second, first
    assert trace_back(first).count("KeyError") == 2


def test_words_can_be_sent_as_utf_8() -> None:
    assert one_line("\ud800\n\udfff é").encode() == "? ? é".encode()
