"""Log lines: one JSON object each, with the request's id, and never a secret or a phone number."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import uuid

import pytest

from app.core.config import LogFormat
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

    def configure(self, level: str, log_format: LogFormat) -> None:
        configure_logging(level, log_format)
        logging.getLogger().handlers[-1].setStream(self.stream)

    def __call__(self) -> str:
        return self.stream.getvalue()


@pytest.fixture
def lines(logged):
    logged.configure("INFO", LogFormat.JSON)
    return lambda: [json.loads(line) for line in logged().splitlines()]


def test_a_line_is_one_json_object_with_the_extra_fields(lines):
    logging.getLogger("app.x").info("settled %s", "it", extra={"conversation": "c1", "n": 3, "gone": None})
    line = lines()[0]
    assert line.pop("timestamp").endswith("+00:00")
    assert line == {
        "level": "info", "logger": "app.x", "event": "settled it", "conversation": "c1", "n": 3, "gone": None,
    }  # fmt: skip


def test_a_canonical_line_takes_any_field_name(lines):
    log_canonical("webhook", name="x", message="y", status=200, event_type="z", stages_ms={"store": 1.5})
    line = lines()[0]
    assert {key: line[key] for key in ("event", "name", "message", "status", "stages_ms")} == {
        "event": "webhook", "name": "x", "message": "y", "status": 200, "stages_ms": {"store": 1.5},
    }  # fmt: skip


def test_an_exception_comes_with_its_traceback_in_the_same_line(lines):
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("app.x").exception("bug")
    (line,) = lines()
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: boom")


async def test_the_request_id_is_on_every_line_of_its_task_and_of_no_other(lines):
    async def handle(given):
        bound = bind_request_id(given)
        await asyncio.sleep(0)
        log_canonical("done", bound=bound)
        assert request_id() == bound

    await asyncio.gather(asyncio.create_task(handle("mine")), asyncio.create_task(handle(None)))
    assert request_id() is None
    log_canonical("outside")
    await asyncio.sleep(0)  # lines are written once a turn of the loop
    first, second, outside = lines()
    assert first["request_id"] == "mine"
    assert len(second["request_id"]) == 16
    assert all(line["request_id"] == line["bound"] for line in (first, second))
    assert "request_id" not in outside


SECRETS = [
    "Bearer EAAJBxyz0123", "sha256=0fa1b2c3d4e5f60718293a4b5c6d7e8f", "EAAJB" + "x" * 40, "AIza" + "y" * 35,
    "sb_secret_abcdefgh", "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "+16505551234", "16505551234",
    "4915112345678",
]  # fmt: skip


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("log_format", LogFormat)
def test_what_must_not_be_logged_is_taken_out_wherever_it_is(logged, secret, log_format):
    logged.configure("INFO", log_format)
    logger = logging.getLogger("app.x")
    logger.info("told %s", secret, extra={"field": f"to:{secret}", "nested": {"deep": [f"({secret})"]}})
    try:
        raise ValueError(f"for {secret}!")
    except ValueError:
        logger.exception("bug")
    value = secret.removeprefix("Bearer ").removeprefix("sha256=").lstrip("+")
    assert value not in logged()
    assert "[redacted]" in logged()


def test_identifiers_stay_readable(lines):
    ids = ["106540352242922", str(uuid.uuid4()), "wamid.HBgLMTY1MDU1NTEyMzQVAgARGBI5", "1763856000", "0.12345678901234"]
    log_canonical("ids", ids=ids, phone_number_id="106540352242922", micros=1763856000123)
    line = lines()[0]
    assert line["ids"] == ids
    assert line["phone_number_id"] == "106540352242922"
    assert line["micros"] == 1763856000123


def test_what_json_cannot_hold_is_shown_somehow_rather_than_lost(lines):
    log_canonical("odd", big=2**70, lone="\ud800", thing=object(), keys={1: "a"}, when=uuid.UUID(int=1))
    line = lines()[0]
    assert line["big"] == 2**70
    assert line["event"] == "odd"


def test_levels_apply_and_chatty_libraries_are_quiet(lines):
    logging.getLogger("app.x").debug("too fine")
    logging.getLogger("httpx").info("HTTP Request: POST https://…")
    logging.getLogger("uvicorn.access").info("GET /")
    logging.getLogger("uvicorn.error").info("Started", extra={"color_message": "\x1b[1mStarted"})
    (line,) = lines()
    assert line["event"] == "Started"
    assert "color_message" not in line


def test_configuring_again_replaces_only_our_own_handler(logged):
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    before = len(logging.getLogger().handlers)
    logged.configure("INFO", LogFormat.JSON)
    logged.configure("DEBUG", LogFormat.PRETTY)
    assert len(logging.getLogger().handlers) == before + 1
    assert other in logging.getLogger().handlers
    logging.getLogger("app.x").debug("hello", extra={"a": 1})
    assert "hello" in logged()
    assert "a=1" in logged()


def test_local_variables_never_reach_a_traceback(logged):
    logged.configure("INFO", LogFormat.PRETTY)
    try:
        password = "hunter" + str(2)  # noqa: F841 -- a local variable is the point
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("app.x").exception("bug")
    assert "boom" in logged()
    assert "hunter2" not in logged()
