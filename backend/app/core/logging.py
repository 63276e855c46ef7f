"""Logs: stdlib `logging` everywhere, rendered by structlog as one JSON object a line (or in colours for people).

    configure_logging("INFO", pretty=False)                # once, at start-up; again changes level and format
    logger = logging.getLogger(__name__)
    logger.info("settled", extra={"conversation": id})     # extra fields become keys

    request_id = bind_request_id()                         # every later line of this task carries it
    bind_messages(["message:1:wamid.x"])                   # and which messages it is about
    log_canonical("webhook", status=200, ms=1.2)           # the one line that tells a unit of work
    tell_by_place(in_the_log=True)                         # what no handler caught

What may be logged is a list: fields by name and form (`core/log_fields.py`), and words that we wrote ourselves. An
exception is told by its type and its place; its text is written only if it is ours (`core.errors.Expected`), because
that of a library may quote what it failed on, as a database's DETAIL does. Of a library's own log line the first line
of the template is written, without what was to be put into it; a text that is no template, but was put together
before, is told by its place alone. As a last line of defence every line is searched for what must not be there
(`core/redaction.py`). It is no licence to log it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import linecache
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import orjson

from app.core.failure_words import named, trace_back
from app.core.log_fields import admitted
from app.core.redaction import is_suspicious, redact, scrub

_canonical = logging.getLogger("app.canonical")
logger = logging.getLogger(__name__)
_context: ContextVar[dict[str, Any]] = ContextVar("log_context", default={})  # noqa: B039  replaced, never changed
"""What every line of this task carries, nothing secret. One variable: asking for all of many costs more than a line."""

TRACE_DIGITS = 12
_PROCESS = os.urandom(4).hex()
_requests = count(1)
MAX_TRACES = 10

_QUIET = ("httpx", "httpcore", "uvicorn.access", "hpack")
"""Libraries that log every request, URL included; our canonical lines say it better."""

_OURS = "app"
_FILLED_IN = ("Started server process", "Finished server process", "Uvicorn running on", "Cancel %s running task(s)")
"""Templates of uvicorn that are written with what belongs into them: process ids, numbers, our own HOST and PORT."""
_ASYNCIO_SAYS = (
    "Task exception was never retrieved", "Future exception was never retrieved",
    "_GatheringFuture exception was never retrieved", "Task was destroyed but it is pending!", "Exception in callback",
    "Exception in default exception handler", "Unhandled exception in event loop",
    "Unhandled error in exception handler", "unhandled exception during asyncio.run() shutdown",
    "an error occurred during closing of asynchronous generator", "socket.accept() out of system resource",
    "Fatal error", "Fatal read error", "Fatal write error", "SSL handshake failed", "SSL error in data received",
)  # fmt: skip
"""How the messages begin that event loops hand to their exception handler. What follows may be the `repr` of arguments,
or of the exception that was never retrieved."""


def configure_logging(level: str, *, pretty: bool = False) -> None:
    """Send everything from `level` up to stderr. Replaces what an earlier call set up, and uvicorn's own handlers."""
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(old)
    global _lines  # noqa: PLW0603  one for the process
    handler = _Handler(sys.stderr)
    handler.setFormatter(_PrettyFormatter() if pretty else _JsonFormatter())
    _lines = None if pretty else _Lines(handler)
    root.addHandler(handler)
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    # These attributes of a record are never read; not collecting them is the documented way to make logging faster.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def bind_request_id(value: str | None = None) -> str:
    """Give this task, and those it starts, a request id: `value`, or a new one. Returns it."""
    request_id = redact(value) if value else f"{_PROCESS}{next(_requests):08x}"
    _context.set({**_context.get(), "request_id": request_id})
    return request_id


def trace_of(message_id: str) -> str:
    """A short name for a message that is safe in logs and the same in every replica. WhatsApp's own ids are not safe:
    the customer's phone number is inside, in base64."""
    return hashlib.sha256(message_id.encode()).hexdigest()[:TRACE_DIGITS]


def bind_messages(message_ids: Sequence[str]) -> None:
    """Every later line of this task names these messages (the first few), from the webhook to the send."""
    _context.set({**_context.get(), "messages": [trace_of(each) for each in message_ids[:MAX_TRACES]]})


def forget_context() -> None:
    """What this task has bound so far is on no later line."""
    _context.set({})


def request_id() -> str | None:
    """The id bound in this task, if any."""
    value = _context.get().get("request_id")
    return value if isinstance(value, str) else None


def log_canonical(event: str, /, **fields: Any) -> None:
    """One line at INFO for a finished unit of work: ids, outcome, milliseconds per stage.

    It goes past `logging` only while that can make no difference: no other handler, no filter, no level in between.
    """
    if not _canonical.isEnabledFor(logging.INFO):
        return
    if _lines is None or not _lines.is_alone:
        _canonical.info(event, extra={"fields": fields})
    else:
        fields = admitted(fields)
        # Only words can hold what must not be there; most values are numbers, and what is bound is clean.
        words = [value for value in fields.values() if value and isinstance(value, str)]
        if words and is_suspicious(" ".join(words)):
            fields = scrub(fields)
        _lines.write(event, _context.get() | fields)


class _Lines:
    """Canonical lines, past `logging` and written together once a turn of the loop: there is one for every webhook, and
    a line through a handler costs as much as the webhook's own work."""

    def __init__(self, handler: _Handler) -> None:
        self._handler = handler
        self._formatter = handler.formatter
        self._pending: list[tuple[str, dict[str, object]]] = []

    @property
    def is_alone(self) -> bool:
        """Would `logging` hand a canonical line to our handler and to nothing else, unchanged? Asked for every line:
        a handler or filter may be added at any time, by OpenTelemetry for example."""
        handler, parent, root = self._handler, _canonical.parent, logging.root
        return (
            [other for other in root.handlers if type(other) is not logging.NullHandler] == [handler]
            and not handler.filters
            and handler.level <= logging.INFO
            and handler.formatter is self._formatter
            and not (_canonical.filters or _canonical.handlers or not _canonical.propagate)
            and logging.getLogRecordFactory() is logging.LogRecord
            and (parent is root or _is_plain(parent))
        )

    def write(self, event: str, fields: dict[str, object]) -> None:
        self._pending.append((event, fields))
        if len(self._pending) > 1:
            return
        try:
            asyncio.get_running_loop().call_soon(self._flush)
        except RuntimeError:
            self._flush()

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        head = {"timestamp": datetime.now(UTC), "level": "info", "logger": _canonical.name}
        self._handler.stream.write("".join([_dump({**head, "event": event, **fields}) for event, fields in pending]))
        self._handler.flush()


_lines: _Lines | None = None


def _is_plain(logger: logging.Logger | None) -> bool:
    """Nothing between this logger and the root takes lines for itself or keeps them."""
    while logger is not None and logger is not logging.root:
        if logger.handlers or not logger.propagate:
            return False
        logger = logger.parent
    return logger is not None


class _Handler(logging.StreamHandler[TextIO]):
    """Ours, so that `configure_logging` replaces no other one."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """A line that could not be written is told by its place; `logging` prints it, with its arguments."""
        exc = sys.exc_info()[1]
        if exc is None or not logging.raiseExceptions:
            return
        with suppress(OSError, ValueError):  # it may have been stderr itself that failed
            sys.stderr.write(f"a log line could not be written: {_place(record)}\n{trace_back(exc)}\n")


class _JsonFormatter(logging.Formatter):
    """Straight from the record to orjson: structlog's `ProcessorFormatter` copies every record, for half as much
    again as all the rest of a line costs."""

    def format(self, record: logging.LogRecord) -> str:
        return _line(_event(record)).rstrip("\n")  # the handler ends it


class _PrettyFormatter(logging.Formatter):
    """For people. The plain traceback, because the decorated one prints local variables."""

    def __init__(self) -> None:
        import structlog  # noqa: PLC0415  25 ms of every command's start, and only these lines need it

        super().__init__()
        self._render = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )

    def format(self, record: logging.LogRecord) -> str:
        return str(self._render(None, record.levelname, scrub(_event(record))))


_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
    "fields",
}
"""What is on every record; the rest came by `extra`."""


def _event(record: logging.LogRecord) -> dict[str, Any]:
    event = {
        "timestamp": datetime.fromtimestamp(record.created, UTC), "level": record.levelname.lower(),
        "logger": record.name, "event": _message(record), **_context.get(),
    }  # fmt: skip
    attributes = record.__dict__
    given = {name: value for name, value in attributes.items() if name not in _STANDARD}
    event |= admitted(given | attributes.get("fields", {}))
    if record.exc_info and record.exc_info[1] is not None:
        event["exception"] = trace_back(record.exc_info[1])
    return event


def _message(record: logging.LogRecord) -> str:
    if record.name.partition(".")[0] == _OURS:
        return record.getMessage()
    if not isinstance(record.msg, str):
        return _of_an_object(record.msg)
    first = record.msg.strip().partition("\n")[0]
    if record.name.startswith("uvicorn") and first.startswith(_FILLED_IN):
        return record.getMessage()
    if record.args:
        return first
    if record.name == "asyncio":
        return next((known for known in _ASYNCIO_SAYS if first.startswith(known)), _place(record))
    return first if _is_written_in(record.pathname, first) else _place(record)


def _of_an_object(said: object) -> str:
    """uvicorn logs the error itself when its port is taken."""
    if not isinstance(said, BaseException):
        return type(said).__name__
    number = said.errno if isinstance(said, OSError) else None
    return f"{named(said)}: {os.strerror(number)}" if number else named(said)


def _place(record: logging.LogRecord) -> str:
    return f"{record.filename}:{record.lineno}"


def _is_written_in(path: str, text: str) -> bool:
    """Is it a text that stands in the library's own source, and not one that was put together when it was logged?"""
    source = _source(path)
    return bool(text) and (f'"{text}' in source or f"'{text}" in source)


@lru_cache(maxsize=64)
def _source(path: str) -> str:
    return "".join(linecache.getlines(path))


def _line(event: dict[str, Any]) -> str:
    line = _dump(event)
    return _dump(scrub(event)) if is_suspicious(line) else line


_JSON = orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE


def _dump(event: dict[str, object]) -> str:
    try:
        return orjson.dumps(event, default=repr, option=_JSON).decode()
    except TypeError:
        # Lone surrogates and integers over 64 bits: a line that is odd is better than none.
        return json.dumps(event, default=str, skipkeys=True) + "\n"


Tell = Callable[[str, BaseException | None], None]


def tell_by_place(*, in_the_log: bool = False) -> None:
    """What the process says of an error that no handler caught, and of a warning: type, codes and places, never the
    text, which may quote what a library failed on. Replaces the hooks of `sys`, `threading` and `warnings` for the
    whole process; exit codes stay. May be called again.

    A command: on stderr. A replica, once its logs are configured: `in_the_log`. Not for tests: pytest has hooks of its
    own.
    """
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
