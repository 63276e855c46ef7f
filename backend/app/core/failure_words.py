"""An error in words that may be kept and shown: in the log, with a dead letter, as a circuit's reason.

    in_words(Unavailable("gemini", "gemini: HTTP 400 API_KEY_INVALID"))   "HTTP 400 API_KEY_INVALID"
    in_words(ConnectFailed("ConnectError"))                               "ConnectFailed: ConnectError"
    in_words(asyncpg.CheckViolationError(…))                              "CheckViolationError 23514"
    place_of(KeyError("Amina"))                                           "KeyError in webhook.py:212"
    trace_back(exc)                                                       as Python prints it, less foreign texts

The text of an error is used only if we wrote it (`core.errors.Expected`). Any other one is its type and its codes: a
database's DETAIL holds the row, a KeyError the key, a validation error the value.
"""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from app.core.errors import Expected, Unavailable
from app.core.redaction import redact

WORDS_CHARACTERS = 200
MAX_LINKS = 8
MAX_FRAMES = 40
_CODES = ("sqlstate", "code", "wa_code", "status_code", "errno")
"""Attributes by which libraries tell what happened: asyncpg, PostgREST, SystemExit, HTTP, the operating system."""
_CODE = re.compile(r"[A-Za-z0-9_]{1,20}")


def in_words(exc: BaseException) -> str:
    """One short line without secrets. A dependency's error is its message, without the dependency's name; any other one
    has its type in front."""
    if isinstance(exc, Unavailable):
        return redact(one_line(str(exc))).removeprefix(f"{exc.dependency}: ")[:WORDS_CHARACTERS]
    return named(exc)


def named(exc: BaseException) -> str:
    """As `in_words`, always with the type in front."""
    if isinstance(exc, Expected):
        return f"{type(exc).__name__}: {redact(one_line(str(exc)))}".removesuffix(": ")[:WORDS_CHARACTERS]
    return " ".join([type(exc).__name__, *_codes(exc)])


def _codes(exc: BaseException) -> list[str]:
    found = (getattr(exc, name, None) for name in _CODES)
    codes = [str(code) for code in found if isinstance(code, (int, str)) and not isinstance(code, bool)]
    return list(dict.fromkeys(code for code in codes if _CODE.fullmatch(code)))


def place_of(exc: BaseException) -> str:
    """The type of a bug and the line that raised it, without its text."""
    frame = exc.__traceback__
    if frame is None:
        return type(exc).__name__
    while frame.tb_next is not None:
        frame = frame.tb_next
    return f"{type(exc).__name__} in {Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}"


def trace_back(exc: BaseException) -> str:
    """Frames and types of `exc` and of what led to it, the first cause first, each with `in_words` at its end."""
    blocks: list[str] = []
    seen: set[int] = set()
    link: BaseException | None = exc
    joint = ""
    while link is not None and id(link) not in seen and len(blocks) < MAX_LINKS:
        seen.add(id(link))
        blocks.append(_block(link) + joint)
        if link.__cause__ is not None:
            link, joint = link.__cause__, "\n\nThe above exception was the direct cause of the following exception:\n"
        else:
            link = None if link.__suppress_context__ else link.__context__
            joint = "\n\nDuring handling of the above exception, another exception occurred:\n"
    return "\n".join(reversed(blocks))


def _block(exc: BaseException) -> str:
    frames = traceback.format_list(traceback.extract_tb(exc.__traceback__, limit=-MAX_FRAMES))
    head = "Traceback (most recent call last):\n" if frames else ""
    lines = [f"{head}{''.join(frames)}{_last_line(exc)}"]
    if isinstance(exc, BaseExceptionGroup):
        lines += [f"  | {line}" for each in exc.exceptions[:MAX_LINKS] for line in _block(each).splitlines()]
    return "\n".join(lines)


def _last_line(exc: BaseException) -> str:
    """The last line of a traceback."""
    kind = type(exc)
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    text = redact(one_line(str(exc)))[:WORDS_CHARACTERS] if isinstance(exc, Expected) else " ".join(_codes(exc))
    return f"{module}{kind.__qualname__}: {text}".removesuffix(": ")


def one_line(text: str) -> str:
    """Line breaks and runs of white space become one space; what no server takes, as half an emoji, a question mark."""
    return " ".join(text.encode(errors="replace").decode().split())
