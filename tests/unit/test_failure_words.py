"""Errors in words: one short line that every server takes, without secrets; a bug by its place."""

from __future__ import annotations

import pytest

from app.core.errors import DeadlineExceeded, Unavailable
from app.core.failure_words import in_words, one_line, place_of
from app.core.http_client import ConnectFailed
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
            AccountRejected("HTTP 401, code 190: expired", reason=BlockReason.TOKEN_INVALID, wa_code=190),
            "AccountRejected: HTTP 401, code 190: expired",
        ),
        (ValueError("a\r\n  b\tc"), "ValueError: a b c"),
        (ValueError("half \ud83d"), "ValueError: half ?"),
        (ValueError("to 33612345678 with Bearer abc.def"), "ValueError: to [redacted] with Bearer [redacted]"),
        (ValueError("x" * 500), "ValueError: " + "x" * 188),
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


def test_words_can_be_sent_as_utf_8() -> None:
    assert one_line("\ud800\n\udfff é").encode() == "? ? é".encode()
