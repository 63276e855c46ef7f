"""The toolbox as its users write it: each snippet of the documentation, word for word, and the lines it logs."""

from __future__ import annotations

import ast
import inspect
import logging
import re
import types
from typing import Any

import httpx
import pytest

from app.core.cache import default_cache
from app.core.circuit_breaker import CircuitBreakerOpenError, gemini_circuit_breaker
from app.core.http_client import close_http_client
from tests.support.fakes import FakeClock

HTTP_CLIENT = """
from app.core.http_client import get_http_client, get_http_client_for_media, close_http_client
client = await get_http_client()                # shared; connect 3 s, read 10 s, at most 100 connections
"""

RETRY = """
from app.core.retry import retry_on_network_error, retry_on_server_error, execute_with_retry
@retry_on_network_error(max_attempts=3)
async def call_external_api(): ...
result = await execute_with_retry(my_api_call, param1="value", max_attempts=3)
"""

CIRCUIT_BREAKER = """
from app.core.circuit_breaker import gemini_circuit_breaker, CircuitBreakerOpenError   # also whatsapp_, supabase_
result = await gemini_circuit_breaker.call_async(call_gemini_api, endpoint, payload)
"""

CACHE = """
from app.core.cache import cached, get_cached_or_fetch, invalidate_cache_pattern
@cached(ttl_seconds=300, key_prefix="user_data")
async def get_user_data(user_id: str): ...
data = await get_cached_or_fetch(f"user:{user_id}", fetch_from_db, user_id, ttl_seconds=300)   # key=, fetch_func= also by keyword
await invalidate_cache_pattern(f"user:{user_id}"); await invalidate_cache_pattern("user:*")
"""  # noqa: E501 -- word for word


async def run(snippet: str, **names: Any) -> dict[str, Any]:
    """Run it as a module named `app.example` that may await at the top level; its names afterwards."""
    names |= {"__name__": "app.example"}
    code = compile(snippet, "snippet", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    awaited = types.FunctionType(code, names)()
    if awaited is not None:
        await awaited
    return names


@pytest.fixture(autouse=True)
async def _left_as_found():
    yield
    await default_cache.invalidate("*")
    await close_http_client()


async def test_http_client():
    names = await run(HTTP_CLIENT)
    client = names["client"]
    assert client.timeout.as_dict() == {"connect": 3, "read": 10, "write": 10, "pool": 3}
    assert await names["get_http_client"]() is client
    await names["close_http_client"]()
    assert client.is_closed


async def test_retry(caplog, monkeypatch):
    monkeypatch.setattr("app.core.clock.SystemClock.sleep", lambda _self, seconds: FakeClock().sleep(seconds))
    calls = []

    async def my_api_call(param1):
        calls.append(param1)
        if len(calls) < 3:
            raise httpx.ConnectError("no route")
        return "answer"

    names = await run(RETRY, my_api_call=my_api_call)
    assert names["result"] == "answer"
    assert calls == ["value"] * 3
    assert await names["call_external_api"]() is None
    caplog.clear()

    names = await run("""
from app.core.retry import retry_on_network_error
@retry_on_network_error(max_attempts=3)
async def call_external_api():
    raise TimeoutError("slow")
""")
    with pytest.raises(TimeoutError):
        await names["call_external_api"]()
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert len(lines) == 2
    for level, line in lines:
        assert level == "WARNING"
        pattern = r"Retrying app\.example\.call_external_api in \d\.\d seconds as it raised TimeoutError\."
        assert re.fullmatch(pattern, line)


async def test_circuit_breaker(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    clock = FakeClock()
    monkeypatch.setattr(gemini_circuit_breaker, "_monotonic", clock.monotonic)
    outcome: list[Exception | None] = [None]

    async def call_gemini_api(endpoint, payload):
        if outcome[0]:
            raise outcome[0]
        return endpoint, payload

    async def call():
        names = await run(CIRCUIT_BREAKER, call_gemini_api=call_gemini_api, endpoint="/generate", payload={"a": 1})
        return names["result"]

    assert await call() == ("/generate", {"a": 1})
    outcome[0] = httpx.ReadTimeout("slow")
    for _ in range(5):
        with pytest.raises(httpx.ReadTimeout):
            await call()
    with pytest.raises(CircuitBreakerOpenError) as caught:
        await call()
    assert caught.value.retry_after == 60
    outcome[0] = None
    clock.advance(60)
    await call()
    await call()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "Circuit breaker 'gemini_api': seuil d'échecs atteint (5/5), ouverture du circuit"),
        ("INFO", "Circuit breaker 'gemini_api': tentative de récupération (HALF_OPEN)"),
        ("INFO", "Circuit breaker 'gemini_api': récupération réussie (CLOSED)"),
    ]


async def test_the_circuit_breaker_around_a_retried_function_works_too():
    names = await run("""
from app.core.retry import retry_on_network_error
from app.core.circuit_breaker import gemini_circuit_breaker
@retry_on_network_error(max_attempts=3)
async def fn(): return "answer"
result = await gemini_circuit_breaker.call_async(fn)
""")
    assert names["result"] == "answer"


async def test_cache(caplog):
    caplog.set_level(logging.DEBUG, logger="app.core.cache")
    loads = []

    async def fetch_from_db(user_id):
        loads.append(user_id)
        return {"id": user_id}

    names = await run(CACHE, fetch_from_db=fetch_from_db, user_id="account_123")
    assert names["data"] == {"id": "account_123"}
    assert inspect.iscoroutinefunction(names["get_user_data"])
    assert await names["get_user_data"]("1") is None
    fetch = names["get_cached_or_fetch"]
    caplog.clear()
    for _ in range(2):
        assert await fetch(key="bot_profile:account_123", fetch_func=lambda: fetch_from_db("x"), ttl_seconds=300)
    assert loads == ["account_123", "x"]
    assert [record.getMessage() for record in caplog.records] == [
        "Cache MISS: bot_profile:account_123",
        "Cache SET: bot_profile:account_123 (TTL=300s)",
        "Cache HIT: bot_profile:account_123",
    ]


async def test_a_cached_function_is_loaded_once_per_argument_until_invalidated():
    loads = []
    names = await run(
        """
from app.core.cache import cached, invalidate_cache_pattern
@cached(ttl_seconds=300, key_prefix="user_data")
async def get_user_data(user_id: str):
    loads.append(user_id)
    return {"id": user_id}
first = await get_user_data("1"), await get_user_data("2"), await get_user_data(user_id="1")
await invalidate_cache_pattern("user_data:1")
second = await get_user_data("1"), await get_user_data("2")
""",
        loads=loads,
    )
    assert names["first"] == ({"id": "1"}, {"id": "2"}, {"id": "1"})
    assert loads == ["1", "2", "1"]


async def test_the_forms_that_the_guide_shows(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(gemini_circuit_breaker, "_monotonic", clock.monotonic)
    monkeypatch.setattr("app.core.clock.SystemClock.sleep", lambda _self, seconds: clock.sleep(seconds))
    loads: list[str] = []
    failures = [httpx.ConnectError("no route")]
    names = await run(
        """
from app.core.cache import cached, get_cache, get_cached_or_fetch
from app.core.circuit_breaker import gemini_circuit_breaker, get_all_circuit_breakers
from app.core.retry import retry_on_network_error

@retry_on_network_error(max_attempts=3, min_wait=2, max_wait=10)
async def call_external_api():
    if failures: raise failures.pop()
    return "answer"
answer = await call_external_api()

@cached()
async def load(key: str):
    loads.append(key)
    return {"key": key}
twice = await load("a"), await load("a")
key = load.key("a")
await get_cached_or_fetch("b", load, "b")
policy = get_cache()

sum_of_two = gemini_circuit_breaker.call(lambda a, b: a + b, 1, b=2)
status = get_all_circuit_breakers()["gemini_api"].get_status()
""",
        loads=loads,
        failures=failures,
    )
    assert (names["answer"], clock.slept) == ("answer", [2.0])
    assert (names["twice"], loads) == (({"key": "a"},) * 2, ["a", "b"])
    assert names["key"] == "app.example.load:a"
    assert names["policy"] is default_cache
    assert names["sum_of_two"] == 3
    shown = {"name": "gemini_api", "state": "closed", "failure_count": 0, "retry_after": 0, "forced": False, "why": ""}
    assert names["status"].items() >= shown.items()


def test_a_plain_function_opens_a_circuit_and_closes_it_without_an_event_loop(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(gemini_circuit_breaker, "_monotonic", clock.monotonic)

    def fail():
        raise httpx.ReadTimeout("slow")

    for _ in range(5):
        with pytest.raises(httpx.ReadTimeout):
            gemini_circuit_breaker.call(fail)
    with pytest.raises(CircuitBreakerOpenError):
        gemini_circuit_breaker.call(int)
    assert gemini_circuit_breaker.get_status()["state"] == "open"
    clock.advance(60)
    assert [gemini_circuit_breaker.call(int), gemini_circuit_breaker.call(int)] == [0, 0]
    assert gemini_circuit_breaker.get_status()["state"] == "closed"
