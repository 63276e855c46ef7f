"""What the database, PostgREST, Redis, Supabase and a token say about a person is written nowhere: not in logs, spans,
metrics or bodies, on the ways that tests/e2e/test_logs.py does not take. A name and a number of ten digits are planted
in every answer, as PostgreSQL puts the row into its DETAIL."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import httpx
import jwt
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from postgrest.exceptions import APIError
from prometheus_client import REGISTRY, generate_latest

from app.adapters.postgres_store import PostgresStore
from app.core.http_client import close_http_client
from app.core.logging import configure_logging, forget_context
from app.localhost.processes import free_port, run
from app.main import create_app
from app.sandbox import webhooks as wa
from app.settings import Settings
from tests.support.fakes import peer, read_request, response
from tests.support.serving import APP_SECRET, OPERATOR_KEY, OutsideWorld, served, settings_of
from tests.support.spans import exported_spans

NAME, NUMBER = "Kumquat Smith", "2125550187"
ROW = f"Failing row contains (1, {NAME}, {NUMBER}, verify-1001)."
OPERATOR = {"Authorization": f"Bearer {OPERATOR_KEY}"}
JWT_SECRET = "a-legacy-secret-" * 4
SHOWN = ("/health", "/metrics", "/admin/queue", "/admin/dead-letters", "/admin/breakers")
BUSINESS = wa.Business("900100200300400")

SPOIL = f"""
do $$
declare name text;
begin
  for name in
    select proname from pg_proc
    where pronamespace = 'public'::regnamespace and proname like 'chorus\\_%' and not proname = any('{{BUT}}')
      and pronargs = 1 and prorettype = 'jsonb'::regtype and proargnames[1] = 'p'
  loop
    execute format(
      'create or replace function public.%I(p jsonb) returns jsonb language plpgsql as ''begin raise exception '
      'using errcode = ''''23514'''', message = ''''{ROW}'''', detail = ''''{ROW}'''', hint = ''''{NAME}''''; end''',
      name
    );
  end loop;
end $$
"""
"""Every function of ours but those named refuses, with a row in its message and its DETAIL."""
START = "chorus_ping,chorus_applied_migrations,chorus_database_identity,chorus_schema_version"


def unsaid(*texts: str) -> None:
    for text in texts:
        for planted in ("kumquat", NUMBER, "verify-1001"):
            assert planted not in text.lower(), text[max(0, text.lower().find(planted) - 500) :][:700]


class Written:
    """What this process writes at DEBUG, and the spans it ends."""

    def __init__(self, spans: InMemorySpanExporter) -> None:
        self.stream = io.StringIO()
        self._spans = spans

    @property
    def log(self) -> str:
        return self.stream.getvalue()

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._spans.get_finished_spans()

    def lines(self, event: str) -> list[dict[str, object]]:
        return [line for line in map(json.loads, self.log.splitlines()) if line["event"] == event]

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not happened():
                await asyncio.sleep(0.02)

    def check(self, *bodies: str) -> None:
        unsaid(self.log, *(span.to_json() for span in self.spans), generate_latest(REGISTRY).decode(), *bodies)


@pytest.fixture
def written() -> Iterator[Written]:
    root = logging.getLogger()
    level, before = root.level, list(root.handlers)
    root.handlers.clear()
    forget_context()
    configure_logging("DEBUG")
    with exported_spans() as spans:
        told = Written(spans)
        ours = root.handlers[0]
        assert isinstance(ours, logging.StreamHandler)
        ours.setStream(told.stream)
        yield told
    root.handlers[:] = before
    root.setLevel(level)
    forget_context()


async def spoil(database_url: str, *, but: str = "") -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute(SPOIL.replace("BUT", but))
    await connection.close()


@asynccontextmanager
async def replica(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with AsyncExitStack() as stack:
        stack.push_async_callback(close_http_client)
        base = await stack.enter_async_context(served(create_app(settings)))
        yield await stack.enter_async_context(httpx.AsyncClient(base_url=base, timeout=10))


async def shown(http: httpx.AsyncClient) -> list[str]:
    return [(await http.get(path, headers=OPERATOR)).text for path in SHOWN]


async def post(http: httpx.AsyncClient, *changes: tuple[wa.Business, dict[str, object]]) -> httpx.Response:
    raw = wa.encode_like_meta(wa.envelope(*changes))
    return await http.post("/webhook/whatsapp", content=raw, headers=wa.signed_headers(APP_SECRET, raw))


def message() -> tuple[wa.Business, dict[str, object]]:
    person = wa.Person(f"1{NUMBER}", NAME)
    return wa.messages_change(BUSINESS, [wa.text(person, f"I am {NAME}, {NUMBER}")], [person])


def template_notice() -> tuple[wa.Business, dict[str, object]]:
    value = {"event": "REJECTED", "message_template_id": 1, "message_template_name": f"{NAME} {NUMBER}"}
    value |= {"message_template_language": NAME, "reason": ROW, "other_info": {"title": NAME, "description": ROW}}
    return (BUSINESS, {"field": "message_template_status_update", "value": value})


@asynccontextmanager
async def auth() -> AsyncIterator[str]:
    """Supabase Auth, whose set of keys is none."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            await read_request(reader)
            writer.write(response(json.dumps({"keys": ROW, NAME: NUMBER}).encode()))

    async with peer(handle) as url:
        yield url


def tokens(issuer: str) -> list[str]:
    """Of users named as our planted one; the first is valid, the second's key is asked for, the third is none."""
    claims = {
        "iss": f"{issuer}/auth/v1", "aud": "authenticated", "role": "authenticated", "exp": time.time() + 600,
        "sub": f"{NAME.replace(' ', '-')}.{NUMBER}", "email": f"{NAME}@{NUMBER}.test", "user_metadata": {"name": NAME},
    }  # fmt: skip
    signed = jwt.encode(claims, JWT_SECRET, algorithm="HS256")
    asked = jwt.encode(claims, JWT_SECRET, algorithm="HS512", headers={"kid": f"{NAME} {NUMBER}"})
    return [signed, asked, f"{NAME}.{NUMBER}"]


DUTIES = {"database", "overflow"}
LOOPS = {"inbox_mover", "cache_relay", "account_watch"}


@pytest.mark.parametrize("durability", ["aof", "none"], ids=["queue and inbox", "journal"])
async def test_a_database_that_quotes_rows(
    durability: str,
    written: Written,
    outside: OutsideWorld,
    valkey_url: str,
    store_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a replica works: in its loops and duties, handling messages, answering users; and at its stop."""
    await spoil(store_url, but=f"{START},chorus_inbox_state")
    close = PostgresStore.aclose

    async def fail(store: PostgresStore) -> None:
        await close(store)
        raise asyncpg.CheckViolationError(ROW)

    monkeypatch.setattr(PostgresStore, "aclose", fail)
    async with auth() as url:
        options = {"supabase_url": url, "supabase_jwt_secret": JWT_SECRET, "debounce_seconds": 0}
        options |= {"redis_durability": durability, "ingest_fallback": "database"}
        async with replica(settings_of(outside.url, valkey_url, store_url, **options)) as http:
            sent = [await post(http, message()), await post(http, template_notice())]
            if durability == "aof":
                await written.until(lambda: len(written.lines("handling failed")) >= len(sent))
            await spoil(store_url)
            sent.append(await post(http, message()))
            asked = [await http.get("/accounts", headers={"Authorization": f"Bearer {token}"}) for token in tokens(url)]
            asked.append(await http.get("/accounts", headers=OPERATOR))

            def all_failed() -> bool:
                dead = {line["loop"] for line in written.lines("background loop died")}
                failed = {line["duty"] for line in written.lines("a duty failed")}
                return dead >= LOOPS and failed >= DUTIES

            await written.until(all_failed)
            bodies = [answer.text for answer in (*sent, *asked)] + await shown(http)
    (stopped,) = written.lines("failed at its stop")
    assert str(stopped["exception"]).endswith("asyncpg.exceptions.CheckViolationError: 23514")
    assert [answer.status_code for answer in asked] == [500, 503, 401, 500]
    assert {span.name for span in written.spans} >= {"webhook"} | ({"handle"} if durability == "aof" else set())
    written.check(*bodies)


def _rest_error(status: str, **fields: str) -> bytes:
    body = json.dumps({"message": ROW, "details": ROW, "hint": NAME, **fields}).encode()
    return response(body, status=status, headers="content-type: application/json\r\n")


@pytest.mark.parametrize(
    ("answer", "starts"),
    [
        (_rest_error("400 Bad Request", code="23514"), False),
        (_rest_error("400 Bad Request", code=f"08{NAME}"), False),
        (_rest_error("401 Unauthorized", code="PGRST303", message=f"JWT issued at future by {NAME}"), True),
        (response(f"<html>{ROW}</html>".encode(), status="502 Bad Gateway"), True),
        (response(f'"{ROW}"'.encode(), headers="content-type: application/json\r\n"), True),
    ],
    ids=["a row", "a code that is none", "a token of the future", "a page", "a text"],
)
async def test_a_rest_interface_that_quotes_rows(
    answer: bytes, starts: bool, written: Written, outside: OutsideWorld, valkey_url: str
) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            await read_request(reader)
            writer.write(answer)

    async with peer(handle) as url:
        settings = settings_of(outside.url, valkey_url, "", supabase_url=url, supabase_key="k")
        app = create_app(settings)
        try:
            if starts:
                async with app.router.lifespan_context(app):
                    await written.until(lambda: bool(written.lines("dependency lost")))
            else:
                with pytest.raises(APIError):
                    async with app.router.lifespan_context(app):
                        pytest.fail("it started")
                (failed,) = written.lines("failed at its start")
                assert "postgrest.exceptions.APIError" in str(failed["exception"])
        finally:
            await close_http_client()
    written.check()


async def _redis_that_quotes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Greets as a Redis does, and answers everything else with an error that repeats what it was asked."""
    greetings = {b"HELLO": b"%1\r\n$5\r\nproto\r\n:3\r\n", b"CLIENT": b"+OK\r\n", b"SELECT": b"+OK\r\n"}
    refused = f"-ERR user_script:7: of mailbox message:1:{NUMBER} of {NAME}, with args beginning with: '{ROW}'\r\n"
    while head := await reader.readline():
        words = []
        for _ in range(int(head[1:])):
            size = int((await reader.readline())[1:])
            words.append((await reader.readexactly(size + 2))[:-2])
        writer.write(greetings.get(words[0].upper(), refused.encode()))


async def test_a_redis_that_quotes_what_it_was_asked(written: Written, outside: OutsideWorld, store_url: str) -> None:
    async with peer(_redis_that_quotes) as url:
        redis_url = url.replace("http://", "redis://") + "/0"
        async with replica(settings_of(outside.url, redis_url, store_url, debounce_seconds=0)) as http:
            sent = await post(http, message(), template_notice())
            assert sent.status_code == 503
            await written.until(lambda: bool(written.lines("dependency lost") and written.lines("heartbeat failed")))
            bodies = [sent.text, *await shown(http)]
    assert "ResponseError: user_script:7" in written.log, "the code and the line of the script are told"
    written.check(*bodies)


async def chorus(*command: str, database_url: str, **env: str) -> tuple[int, str]:
    """A command in a process of its own: its exit code, and all that it writes."""
    given = {"PATH": os.environ["PATH"], "DATABASE_URL": database_url, **env}
    done = await asyncio.to_thread(run, [sys.executable, "-m", "app.cli", *command], env=given, timeout_seconds=60)
    return done.returncode, done.stdout + done.stderr


async def test_a_start_that_fails(outside: OutsideWorld, valkey_url: str, store_url: str) -> None:
    await spoil(store_url)
    settings = settings_of(outside.url, valkey_url, store_url)
    env = {
        "REDIS_URL": valkey_url, "META_APP_SECRET": APP_SECRET, "GEMINI_API_KEY": "k", "LOG_LEVEL": "DEBUG",
        "ENCRYPTION_KEY": settings.encryption_key[0].get_secret_value(), "ADMIN_API_KEY": OPERATOR_KEY,
        "WHATSAPP_BASE_URL": outside.url, "GEMINI_BASE_URL": outside.url,
    }  # fmt: skip
    code, said = await chorus("serve", "--port", str(free_port()), database_url=store_url, **env)
    assert code == 3, said
    assert "failed at its start" in said
    assert "CheckViolationError: 23514" in said
    unsaid(said)


@pytest.mark.parametrize(
    ("sqlstate", "code", "told"),
    [
        ("23514", 1, "chorus: CheckViolationError 23514 table schema_migrations constraint planted"),
        ("42501", 2, "chorus: DATABASE_URL: InsufficientPrivilegeError 42501 table schema_migrations"),
        ("57014", 3, "chorus: database: "),
    ],
)
async def test_a_migration_that_fails(sqlstate: str, code: int, told: str, postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"""
        create schema supabase_migrations;
        create table supabase_migrations.schema_migrations (version text primary key, statements text[], name text);
        create function supabase_migrations.refuse() returns trigger language plpgsql as $$ begin raise exception using
          errcode = '{sqlstate}', message = '{ROW}', detail = '{ROW}', hint = '{NAME}', table = 'schema_migrations',
          constraint = 'planted'; end $$;
        create trigger refuse before insert on supabase_migrations.schema_migrations
          for each row execute function supabase_migrations.refuse();
    """)
    await connection.close()
    exit_code, said = await chorus("migrate", database_url=postgres_url)
    assert (exit_code, said.count("\n")) == (code, 1), said
    assert said.startswith(told)
    unsaid(said)
