"""An error in words that may be kept and shown: in the log, with a dead letter, as a circuit's reason.

    in_words(Unavailable("gemini", "gemini: HTTP 400 API_KEY_INVALID"))   "HTTP 400 API_KEY_INVALID"
    in_words(ConnectFailed("ConnectError"))                               "ConnectFailed: ConnectError"
    place_of(KeyError("Amina"))                                           "KeyError in webhook.py:212"

What it does not do: hide a name or a message's text. Errors that we raise on purpose contain none. A bug's text may
quote the data it failed on, so a bug is told by its place; its traceback is in the log.
"""

from __future__ import annotations

from pathlib import Path

from app.core.errors import Unavailable
from app.core.logging import redact

WORDS_CHARACTERS = 200


def in_words(exc: BaseException) -> str:
    """One short line without secrets. A dependency's error is its message, without the dependency's name; any other one
    has its type in front."""
    text = redact(one_line(str(exc)))
    if isinstance(exc, Unavailable):
        text = text.removeprefix(f"{exc.dependency}: ")
    else:
        text = f"{type(exc).__name__}: {text}".removesuffix(": ")
    return text[:WORDS_CHARACTERS]


def place_of(exc: BaseException) -> str:
    """The type of a bug and the line that raised it, without its text."""
    frame = exc.__traceback__
    if frame is None:
        return type(exc).__name__
    while frame.tb_next is not None:
        frame = frame.tb_next
    return f"{type(exc).__name__} in {Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}"


def one_line(text: str) -> str:
    """Line breaks and runs of white space become one space; what no server takes, as half an emoji, a question mark."""
    return " ".join(text.encode(errors="replace").decode().split())
