"""Log lines: one JSON object each, with the request's id, and never a secret or a phone number."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import uuid

import pytest

from app.cli.root import main
from app.core.errors import Unavailable
from app.core.logging import bind_request_id, configure_logging, forget_context, log_canonical, request_id


@pytest.fixture
def logged():
    """Logging as configured by `logged.configure(…)`, into memory; everything is put back afterwards."""
    root = logging.getLogger()
    level, before = root.level, list(root.handlers)
    forget_context()
    yield Logged()
    root.handlers[:] = before
    root.setLevel(level)
    forget_context()


class Logged:
    def __init__(self) -> None:
        self.stream = io.StringIO()

    def configure(self, level: str, *, pretty: bool = False) -> None:
        configure_logging(level, pretty=pretty)
        logging.getLogger().handlers[-1].setStream(self.stream)

    def __call__(self) -> str:
        return self.stream.getvalue()


@pytest.fixture
def lines(logged):
    logged.configure("INFO")
    return lambda: [json.loads(line) for line in logged().splitlines()]


def test_a_line_is_one_json_object_with_the_extra_fields(lines):
    logging.getLogger("app.x").info("settled %s", "it", extra={"conversation": "c1", "count": 3, "reply": None})
    line = lines()[0]
    assert line.pop("timestamp").endswith("+00:00")
    assert line == {
        "level": "info", "logger": "app.x", "event": "settled it", "conversation": "c1", "count": 3, "reply": None,
    }  # fmt: skip


def test_a_canonical_line_takes_every_field_of_the_list_and_no_other(lines):
    log_canonical("webhook", name="x", message="y", status=200, field="z", stages_ms={"store": 1.5})
    line = lines()[0]
    assert {key: line[key] for key in ("event", "name", "status", "field", "stages_ms", "dropped")} == {
        "event": "webhook", "name": "x", "status": 200, "field": "z", "stages_ms": {"store": 1.5},
        "dropped": ["message"],
    }  # fmt: skip


def test_an_exception_comes_with_its_traceback_in_the_same_line(lines):
    try:
        int("Amina")
    except ValueError:
        logging.getLogger("app.x").exception("bug")
    (line,) = lines()
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("\nValueError"), "without the text, which quotes what it failed on"


def test_a_library_s_line_has_its_template_and_nothing_that_was_put_into_it(lines):
    """asyncio, for one, writes the `repr` of the exception that nobody retrieved."""
    logging.getLogger("asyncio").error("Task exception was never retrieved\nfuture: <KeyError('Amina')>")
    logging.getLogger("somelib").warning("refused %s of %s", "0612345678", "Amina", extra={"customer": "Amina"})
    logging.getLogger("somelib").warning(KeyError("Amina"))
    first, second, third = lines()
    assert first["event"] == "Task exception was never retrieved"
    assert (second["event"], second["dropped"]) == ("refused %s of %s", ["customer"])
    assert third["event"] == "KeyError"


def test_a_text_of_a_library_that_was_put_together_before_is_told_by_its_place(lines):
    """A traceback that starlette formatted, arguments of a callback, a text that was joined."""
    traced = "Traceback (most recent call last):\n  in f\nKeyError: 'Amina'"
    logging.getLogger("uvicorn.error").error("".join(traced))
    logging.getLogger("uvicorn.error").error("ASGI callable should return None, but returned '%s'.", "Amina")
    logging.getLogger("asyncio").error("Exception in callback greet('Amina') at shop.py:7")
    logging.getLogger("somelib").error(" ".join(["refused", "Amina"]))
    logging.getLogger("somelib").error("refused")
    told = [line["event"] for line in lines()]
    assert told[0].startswith("Traceback")
    assert told[1:3] == ["ASGI callable should return None, but returned '%s'.", "Exception in callback"]
    assert told[3].startswith("test_logging.py:")
    assert told[4] == "refused"
    assert "Amina" not in str(told)


def test_what_uvicorn_says_of_its_own_port_and_process_is_filled_in(lines):
    logger = logging.getLogger("uvicorn.error")
    logger.info("Uvicorn running on %s://%s:%d (Press CTRL+C to quit)", "http", "127.0.0.1", 8000)
    logger.error(OSError(98, "error while attempting to bind on address of Amina"))
    assert [line["event"] for line in lines()] == [
        "Uvicorn running on http://127.0.0.1:8000 (Press CTRL+C to quit)", "OSError 98: Address already in use",
    ]  # fmt: skip


async def test_the_request_id_is_on_every_line_of_its_task_and_of_no_other(lines):
    async def handle(given):
        bound = bind_request_id(given)
        await asyncio.sleep(0)
        log_canonical("done", loop=bound)
        assert request_id() == bound

    await asyncio.gather(asyncio.create_task(handle("mine")), asyncio.create_task(handle(None)))
    assert request_id() is None
    log_canonical("outside")
    await asyncio.sleep(0)  # lines are written once a turn of the loop
    first, second, outside = lines()
    assert first["request_id"] == "mine"
    assert len(second["request_id"]) == 16
    assert all(line["request_id"] == line["loop"] for line in (first, second))
    assert "request_id" not in outside


SECRETS = [
    "Bearer EAAJBxyz0123", "sha256=0fa1b2c3d4e5f60718293a4b5c6d7e8f", "EAAJB" + "x" * 40, "AIza" + "y" * 35,
    "chorus_" + "z" * 43,
    "sb_secret_abcdefgh", "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "+16505551234", "16505551234",
    "4915112345678", "0612345678",
]  # fmt: skip


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("pretty", [False, True])
def test_what_must_not_be_logged_is_taken_out_wherever_it_is(logged, secret, pretty):
    logged.configure("INFO", pretty=pretty)
    logger = logging.getLogger("app.x")
    logger.info("told %s", secret, extra={"why": f"to:{secret}", "details": {"deep": f"{{{secret}}}"}})
    try:
        raise Unavailable("gemini", f"for {secret}!")
    except Unavailable:
        logger.exception("bug")
    value = secret.removeprefix("Bearer ").removeprefix("sha256=").lstrip("+")
    assert value not in logged()
    assert "[redacted]" in logged()


def test_identifiers_stay_readable(lines):
    ids = ["106540352242922", str(uuid.uuid4()), "wamid.HBgLMTY1MDU1NTEyMzQVAgARGBI5", "0.12345678901234"]
    log_canonical("ids", messages=ids, phone_number_id="106540352242922", count=1763856000123)
    line = lines()[0]
    assert line["messages"] == ids
    assert line["phone_number_id"] == "106540352242922"
    assert line["count"] == 1763856000123


def test_what_json_cannot_hold_is_shown_somehow_rather_than_lost(lines):
    log_canonical("odd", count=2**70, reason="\ud800", field=object(), details={1: "a"}, account=uuid.UUID(int=1))
    line = lines()[0]
    assert line["count"] == 2**70
    assert line["event"] == "odd"


def test_levels_apply_and_chatty_libraries_are_quiet(lines):
    logging.getLogger("app.x").debug("too fine")
    logging.getLogger("httpx").info("HTTP Request: POST https://…")
    logging.getLogger("uvicorn.access").info("GET /")
    message = "Started server process [%d]"
    logging.getLogger("uvicorn.error").info(message, 7, extra={"color_message": f"\x1b[1m{message}"})
    (line,) = lines()
    assert line["event"] == "Started server process [7]"
    assert "color_message" not in line


def test_configuring_again_replaces_only_our_own_handler(logged):
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    before = len(logging.getLogger().handlers)
    logged.configure("INFO")
    logged.configure("DEBUG", pretty=True)
    assert len(logging.getLogger().handlers) == before + 1
    assert other in logging.getLogger().handlers
    logging.getLogger("app.x").debug("hello", extra={"count": 1})
    assert "hello" in logged()
    assert "count=1" in logged()


def test_local_variables_never_reach_a_traceback(logged):
    logged.configure("INFO", pretty=True)
    try:
        password = "hunter" + str(2)  # noqa: F841 -- a local variable is the point
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("app.x").exception("bug")
    assert "ValueError" in logged()
    assert "hunter2" not in logged()


class Collected(logging.Handler):
    """What OpenTelemetry's handler does: it takes the records of the root logger, with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


CANONICAL = logging.getLogger("app.canonical")


@pytest.fixture
def canonical(logged):
    """Our handler on its own, as a replica has it; `canonical()`: the canonical lines it wrote."""
    logging.getLogger().handlers.clear()
    logged.configure("INFO")
    app = logging.getLogger("app")
    yield lambda: [json.loads(line)["event"] for line in logged().splitlines()]
    CANONICAL.filters.clear()
    for logger in (CANONICAL, app):
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize("name", [None, "app", "app.canonical"])
def test_a_handler_added_anywhere_gets_canonical_lines_with_their_fields(canonical, name):
    other = Collected()
    logging.getLogger(name).addHandler(other)
    log_canonical("webhook", status=401)
    (record,) = other.records
    assert (record.name, record.getMessage(), record.fields) == ("app.canonical", "webhook", {"status": 401})
    assert canonical() == ["webhook"], "ours has it as well, once"


def test_a_handler_that_is_taken_away_again_changes_nothing(canonical):
    other = Collected()
    logging.getLogger().addHandler(other)
    log_canonical("first")
    logging.getLogger().removeHandler(other)
    log_canonical("second")
    assert canonical() == ["first", "second"]
    assert [record.getMessage() for record in other.records] == ["first"]


async def test_what_keeps_a_command_quiet_keeps_no_line_of_a_replica_from_its_quick_way(canonical, logged):
    """`chorus` adds a handler that does nothing, before `serve` sets up its own."""
    logging.getLogger().handlers.clear()
    main.callback()
    logged.configure("INFO")
    log_canonical("first")
    log_canonical("second")
    await asyncio.sleep(0)
    stamps = {json.loads(line)["timestamp"] for line in logged().splitlines()}
    assert (canonical(), len(stamps)) == (["first", "second"], 1), "those of one turn are written at once (ADR 14)"


def test_caplog_sees_canonical_lines(canonical, caplog):
    logging.getLogger().addHandler(caplog.handler)
    log_canonical("webhook", status=200)
    assert [record.getMessage() for record in caplog.records] == ["webhook"]


def test_a_filter_on_the_handler_or_on_the_logger_is_obeyed(canonical):
    def without_webhooks(record):
        return record.getMessage() != "webhook"

    ours = logging.getLogger().handlers[0]
    for filtered in (ours, CANONICAL):
        filtered.addFilter(without_webhooks)
        log_canonical("webhook")
        log_canonical("handled")
        filtered.removeFilter(without_webhooks)
    assert canonical() == ["handled", "handled"]


def test_a_filter_may_change_a_canonical_line(canonical, logged):
    def mark(record):
        record.kind = "eu"
        return True

    logging.getLogger().handlers[0].addFilter(mark)
    log_canonical("webhook")
    assert json.loads(logged())["kind"] == "eu"


@pytest.mark.parametrize("quiet", ["root", "logger", "parent", "handler", "disabled", "no propagation"])
def test_levels_between_the_line_and_the_handler_are_obeyed(canonical, quiet):
    app, ours = logging.getLogger("app"), logging.getLogger().handlers[0]
    match quiet:
        case "root":
            logging.getLogger().setLevel(logging.WARNING)
        case "logger":
            CANONICAL.setLevel(logging.WARNING)
        case "parent":
            app.setLevel(logging.WARNING)
        case "handler":
            ours.setLevel(logging.WARNING)
        case "disabled":
            logging.disable(logging.INFO)
        case _:
            app.propagate = False
    try:
        log_canonical("webhook")
    finally:
        logging.disable(logging.NOTSET)
    assert canonical() == []


def test_a_record_factory_of_the_applications_own_is_used(canonical, logged):
    before = logging.getLogRecordFactory()

    def make(*args, **more):
        record = before(*args, **more)
        record.loop = "chorus-1"
        return record

    logging.setLogRecordFactory(make)
    try:
        log_canonical("webhook")
    finally:
        logging.setLogRecordFactory(before)
    assert json.loads(logged())["loop"] == "chorus-1"


def test_another_formatter_on_our_handler_is_used(canonical, logged):
    logging.getLogger().handlers[0].setFormatter(logging.Formatter("%(name)s says %(message)s"))
    log_canonical("webhook")
    assert logged() == "app.canonical says webhook\n"


def test_a_line_that_cannot_be_written_is_told_by_its_place(canonical, logged, capsys):
    del logging.getLogger().handlers[1:]  # pytest's would raise
    logging.getLogger("app.x").info("%d customers", "Amina")
    assert logged() == ""
    said = capsys.readouterr().err
    assert said.startswith("a log line could not be written: test_logging.py:")
    assert said.endswith("\nTypeError\n")
    assert "Amina" not in said
