"""What a process says of an error that no handler caught, and of a warning: type, codes and places, never the text.

    tell_by_place()                       # a command: on stderr
    tell_by_place(in_the_log=True)        # a replica, once its logs are configured: as a line of the log

Python's own hooks print the text, which may quote what a library failed on (`core/failure_words.py`). Exit codes stay.
Not for tests: pytest has hooks of its own.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from app.core.failure_words import trace_back

logger = logging.getLogger(__name__)

Tell = Callable[[str, BaseException | None], None]


def tell_by_place(*, in_the_log: bool = False) -> None:
    """Replace the hooks of `sys`, `threading` and `warnings` for the whole process. May be called again."""
    tell: Tell = _in_the_log if in_the_log else _on_stderr

    def of_the_program(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, exc, trace)
        else:
            tell("unhandled error", exc.with_traceback(trace))

    def of_a_thread(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, SystemExit):
            tell("unhandled error in a thread", args.exc_value)

    def of_nobody(args: sys.UnraisableHookArgs) -> None:
        tell(f"unhandled error in a {type(args.object).__name__}", args.exc_value)

    def of_a_warning(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        tell(f"{category.__name__} in {Path(filename).name}:{lineno}", None)

    sys.excepthook = of_the_program
    threading.excepthook = of_a_thread
    sys.unraisablehook = of_nobody
    warnings.showwarning = of_a_warning


def _on_stderr(what: str, exc: BaseException | None) -> None:
    with suppress(OSError, ValueError, AttributeError):  # closed, or none
        sys.stderr.write(f"chorus: {what}\n" + (f"{trace_back(exc)}\n" if exc is not None else ""))


def _in_the_log(what: str, exc: BaseException | None) -> None:
    if exc is None:
        logger.warning("%s", what)
    else:
        logger.critical("%s", what, exc_info=exc)
