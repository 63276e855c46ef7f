"""`chorus doctor`: the whole report whatever fails, and the cause in words."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis
from click.testing import CliRunner, Result

from app.adapters.migrations import read_migrations
from app.adapters.postgres_store import PostgresStore
from app.adapters.row_security import expected_policies, policies_of
from app.api.deps import OPERATOR
from app.cli import main
from app.core.egress import Egress
from app.core.http_client import close_http_client, leave_by
from app.core.secrets import TokenCipher
from app.doctor.findings import Finding, bounded
from app.doctor.limits import check_limits
from app.domain.endpoints import Settlement
from app.sandbox.app import running_sandbox
from app.sandbox.client import SandboxClient
from app.sandbox.config import SandboxConfig
from app.services.account_service import AccountService
from app.settings import Settings
from tests.support.fakes import Handler, peer, response
from tests.support.serving import settings_of
from tests.support.tls import running_fronts

FIRST, SECOND, LOST = (TokenCipher.generate_key() for _ in range(3))
NEWEST = read_migrations()[-1].version

Doctor = Callable[..., Awaitable[dict[str, dict[str, str]]]]


@pytest.fixture
async def outside() -> AsyncIterator[str]:
    async with running_sandbox(SandboxConfig(port=0, gemini_api_keys=("the-right-key",))) as sandbox:
        yield sandbox.url


@pytest.fixture
def complete(valkey_url: str, store_url: str, outside: str) -> dict[str, str]:
    return {
        "REDIS_URL": valkey_url, "DATABASE_URL": store_url, "META_APP_SECRET": "s" * 32, "ENCRYPTION_KEY": FIRST,
        "GEMINI_API_KEY": "the-right-key", "GEMINI_BASE_URL": outside, "WHATSAPP_BASE_URL": outside,
        "ADMIN_API_KEY": "a" * 24,
    }  # fmt: skip


async def run(*arguments: str, **env: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, ["doctor", *arguments], env=env)


@pytest.fixture
def doctor(complete: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Doctor]:
    """The findings by subject, with all settings right but those given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # ~/.postgresql/root.crt counts as sslrootcert
    for name in {name.upper() for name in Settings.model_fields} & os.environ.keys():
        monkeypatch.delenv(name)

    async def examine(**env: str) -> dict[str, dict[str, str]]:
        result = await run("--json", **complete | env)
        findings = json.loads(result.stdout)
        assert result.exit_code == int(any(finding["state"] == "bad" for finding in findings))
        return {finding["subject"]: finding for finding in findings}

    yield examine
    leave_by(Egress())


def bad(findings: dict[str, dict[str, str]]) -> set[str]:
    return {subject for subject, finding in findings.items() if finding["state"] == "bad"}


EVERYTHING = {
    "settings", "redis", "replicas", "database", "schema", "row-level security", "ENCRYPTION_KEY", "gemini", "whatsapp",
    "redis namespace",
}  # fmt: skip


async def test_a_healthy_system_is_told_in_full(doctor: Doctor) -> None:
    findings = await doctor()
    assert bad(findings) == set()
    assert findings.keys() >= EVERYTHING
    assert "round trip" in findings["redis"]["detail"]
    assert " ms" in findings["database"]["detail"]
    assert NEWEST in findings["schema"]["detail"]


async def test_a_database_that_takes_no_writes_is_bad_and_hides_no_other_finding(
    doctor: Doctor, store_url: str
) -> None:
    findings = await doctor(DATABASE_URL=f"{store_url}?default_transaction_read_only=on")
    assert bad(findings) == {"database"}
    assert "takes no writes" in findings["database"]["detail"]
    assert findings.keys() >= EVERYTHING - {"settings"}


async def test_everything_wrong_at_once_is_told_in_full(doctor: Doctor) -> None:
    nowhere = "127.0.0.1:1"
    findings = await doctor(
        PORT="eighty", REDIS_URL=f"redis://{nowhere}", REDIS_CACHE_URL=f"redis://{nowhere}", GEMINI_KEY="x",
        DATABASE_URL=f"postgresql://{nowhere}/x", GEMINI_BASE_URL=f"http://{nowhere}",
        WHATSAPP_BASE_URL=f"http://{nowhere}", ENCRYPTION_KEY="short", LOG_LEVEL="LOUD", META_APP_SECRET="# comment",
    )  # fmt: skip
    asked = {"redis", "redis cache", "database", "gemini", "whatsapp"}
    assert bad(findings) == {"PORT", "LOG_LEVEL", "META_APP_SECRET", "ENCRYPTION_KEY"} | asked
    for subject in asked:
        assert "connection refused" in findings[subject]["detail"]
        assert findings[subject]["mend"]


async def test_a_setting_that_is_none_hides_only_its_own_dependency(doctor: Doctor) -> None:
    findings = await doctor(REDIS_URL="localhost:6379", DATABASE_URL="postgresql://u:p@ss@h/x")
    assert bad(findings) == {"REDIS_URL", "DATABASE_URL"}
    assert "is not a URL" in findings["REDIS_URL"]["mend"]
    assert "%40" in findings["DATABASE_URL"]["mend"]
    assert findings["gemini"]["state"] == findings["whatsapp"]["state"] == "ok"


async def test_a_file_that_cannot_be_read_is_named_and_the_rest_examined(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("PORT=1".encode("utf-16"))
    findings = await doctor()
    assert bad(findings) == {".env"}
    assert findings.keys() >= EVERYTHING - {"settings"}


async def test_a_wrong_gemini_key_or_model_is_named(doctor: Doctor) -> None:
    wrong = (await doctor(GEMINI_API_KEY="the-wrong-key"))["gemini"]
    assert (wrong["state"], "the key is wrong" in wrong["detail"], wrong["mend"]) == (
        "bad", True, "correct GEMINI_API_KEY",
    )  # fmt: skip
    assert "the-wrong-key" not in str(wrong)
    model = (await doctor(GEMINI_MODEL="gemini-of-next-year"))["gemini"]
    assert (model["state"], model["mend"]) == ("bad", "correct GEMINI_MODEL")
    assert "gemini-of-next-year" in model["detail"]


def says(answer: bytes) -> Handler:
    """Reads a little of what it is asked, says that and ends, without the reset that unread words would bring."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(answer)
        writer.write_eof()
        await reader.read()

    return handle


def refused(status: str, name: str) -> bytes:
    return response(json.dumps({"error": {"status": name, "message": "x"}}).encode(), status=status)


def graph(message: str) -> bytes:
    return response(json.dumps({"error": {"message": message, "code": 2500}}).encode(), status="400 Bad Request")


PAGE = b"<html><title>Welcome to nginx!</title></html>"
NO_HTTP = b"-ERR unknown command\r\n"


@pytest.mark.parametrize(
    ("answer", "said", "mend"),
    [
        (response(PAGE, status="404 Not Found"), "is not Gemini (HTTP 404)", "correct GEMINI_BASE_URL"),
        (response(b'{"detail": "Not Found"}', status="404 Not Found"), "is not Gemini", "correct GEMINI_BASE_URL"),
        (response(PAGE), "is not Gemini (HTTP 200)", "correct GEMINI_BASE_URL"),
        (response(b"", status="301 Moved Permanently"), "is not Gemini (HTTP 301)", "correct GEMINI_BASE_URL"),
        (response(PAGE, status="400 Bad Request"), "is not Gemini (HTTP 400)", "correct GEMINI_BASE_URL"),
        (response(PAGE, status="403 Forbidden"), "is not Gemini (HTTP 403)", "correct GEMINI_BASE_URL"),
        (refused("404 Not Found", "NOT_FOUND"), "there is no model", "correct GEMINI_MODEL"),
        (refused("403 Forbidden", "PERMISSION_DENIED"), "the key is refused", "correct GEMINI_API_KEY"),
        (refused("400 Bad Request", "FAILED_PRECONDITION"), "does not serve this key from here", "billing"),
        (refused("429 Too Many Requests", "RESOURCE_EXHAUSTED"), "quota or credit is used up", "wait"),
        (refused("402 Payment Required", "RESOURCE_EXHAUSTED"), "quota or credit is used up", "wait"),
        (response(PAGE, status="502 Bad Gateway"), "HTTP 502", "check GEMINI_BASE_URL"),
        (NO_HTTP, "speaks no HTTP", "correct host and port; is it https://? (GEMINI_BASE_URL)"),
        (b"", "speaks no HTTP, or closes at once", "(GEMINI_BASE_URL)"),
    ],
)
async def test_what_answers_instead_of_gemini_is_named(doctor: Doctor, answer: bytes, said: str, mend: str) -> None:
    async with peer(says(answer)) as url:
        finding = (await doctor(GEMINI_BASE_URL=url))["gemini"]
    assert (finding["state"], said in finding["detail"], mend in finding["mend"]) == ("bad", True, True), finding


@pytest.mark.parametrize(
    ("answer", "said", "mend"),
    [
        (response(PAGE, status="404 Not Found"), "is not the Graph API (HTTP 404)", "correct WHATSAPP_BASE_URL"),
        (response(PAGE), "is not the Graph API (HTTP 200)", "correct WHATSAPP_BASE_URL"),
        (response(b'{"detail": "Not Found"}', status="404 Not Found"), "is not the Graph API", "WHATSAPP_BASE_URL"),
        (graph("Unknown path components: /v26.0/me"), "no such path or version: v26.0", "WHATSAPP_BASE_URL"),
        (graph("(#803) Some of the aliases you requested do not exist: v26.0"), "no such path", "WHATSAPP_API_VERSION"),
        (response(PAGE, status="503 Service Unavailable"), "HTTP 503", "check WHATSAPP_BASE_URL"),
        (NO_HTTP, "speaks no HTTP", "(WHATSAPP_BASE_URL)"),
    ],
)
async def test_what_answers_instead_of_whatsapp_is_named(doctor: Doctor, answer: bytes, said: str, mend: str) -> None:
    async with peer(says(answer)) as url:
        finding = (await doctor(WHATSAPP_BASE_URL=url))["whatsapp"]
    assert (finding["state"], said in finding["detail"], mend in finding["mend"]) == ("bad", True, True), finding


async def test_an_answer_of_the_graph_api_to_a_request_without_a_token_is_well(doctor: Doctor) -> None:
    answer = graph("An active access token must be used to query information about the current user.")
    async with peer(says(answer)) as url:
        assert (await doctor(WHATSAPP_BASE_URL=url))["whatsapp"]["state"] == "ok"


async def test_a_base_url_with_a_path_of_another_program_is_named(doctor: Doctor, outside: str) -> None:
    findings = await doctor(WHATSAPP_BASE_URL=f"{outside}/nope", GEMINI_BASE_URL=f"{outside}/nope")
    assert bad(findings) == {"whatsapp", "gemini"}
    assert "correct WHATSAPP_BASE_URL" in findings["whatsapp"]["mend"]
    assert findings["gemini"]["mend"] == "correct GEMINI_BASE_URL"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("answer", "said", "mend"),
    [
        (None, "through the proxy: connection refused", "nothing listens there"),
        (NO_HTTP, "through the proxy: what answers there speaks no HTTP", "correct host and port"),
        (b"HTTP/1.1 407 x\r\ncontent-length: 0\r\n\r\n", "through the proxy: it wants a user", "user:password"),
    ],
)
async def test_a_proxy_that_does_not_let_us_out_is_named(
    doctor: Doctor, scheme: str, answer: bytes | None, said: str, mend: str
) -> None:
    async with peer(says(answer or b"")) as listening:
        proxy = listening.replace("://", "://user:secret@") if answer else "http://user:secret@127.0.0.1:1"
        target, setting = f"{scheme}://127.0.0.1:2", f"{scheme.upper()}_PROXY"
        findings = await doctor(
            GEMINI_BASE_URL=target, WHATSAPP_BASE_URL=target, HTTP_TRUST_ENV="true", **{setting: proxy}
        )
    for subject in ("gemini", "whatsapp"):
        finding = findings[subject]
        assert (said in finding["detail"], mend in finding["mend"]) == (True, True), finding
        assert f"({setting})" in finding["mend"]
        assert "BASE_URL" not in finding["mend"]
        assert "secret" not in str(finding)


async def test_a_proxy_that_refuses_one_host_is_told_of(doctor: Doctor) -> None:
    async with peer(says(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")) as proxy:
        finding = (await doctor(GEMINI_BASE_URL="https://h.test", HTTP_TRUST_ENV="true", HTTPS_PROXY=proxy))["gemini"]
    assert "through the proxy: it refuses the way there (HTTP 403)" in finding["detail"]
    assert finding["mend"].endswith("NO_PROXY (HTTPS_PROXY)")


async def test_what_is_between_us_and_supabase_is_named(doctor: Doctor) -> None:
    over_rest = {"DATABASE_URL": "", "SUPABASE_KEY": "k"}
    async with peer(says(NO_HTTP)) as url:
        foreign = (await doctor(**over_rest, SUPABASE_URL=url))["database"]
    assert "speaks no HTTP" in foreign["detail"]
    proxied = {"HTTP_TRUST_ENV": "true", "HTTPS_PROXY": "http://127.0.0.1:1"}
    lost = (await doctor(**over_rest, **proxied, SUPABASE_URL="https://h.test"))["database"]
    assert "through the proxy: connection refused" in lost["detail"]
    assert lost["mend"].endswith("(HTTPS_PROXY)")


async def test_a_slip_in_a_name_is_told(doctor: Doctor) -> None:
    findings = await doctor(DEBOUNCE_SECOND="3")
    assert findings["DEBOUNCE_SECOND"]["state"] == "warn"
    assert findings["DEBOUNCE_SECOND"]["mend"] == "did you mean DEBOUNCE_SECONDS?"


async def test_the_encryption_key_is_tried_on_every_stored_token(doctor: Doctor, store_url: str) -> None:
    store = PostgresStore(store_url)

    async def add(slug: str, number: str, key: str) -> None:
        await AccountService(store, TokenCipher([key])).create(
            OPERATOR, name=slug, slug=slug, phone_number_id=number, access_token="token-of-it", verify_token="v" * 8
        )

    try:
        await add("levain", "1", FIRST)
        assert "opens all 1 stored tokens" in (await doctor())["ENCRYPTION_KEY"]["detail"]
        rotating = (await doctor(ENCRYPTION_KEY=f"{SECOND},{FIRST}"))["ENCRYPTION_KEY"]
        assert (rotating["state"], "1 of them with an older key" in rotating["detail"]) == ("warn", True)
        assert "rotate-keys" in rotating["mend"]
        (account,) = await store.list_accounts(user_id=None)
        for key in (FIRST, LOST):
            rotating = (await doctor(ENCRYPTION_KEY=f"{SECOND},{FIRST}"))["ENCRYPTION_KEY"]
            await store.create_endpoint(
                account.id, url="https://crm.example/", events=["message.sent"], most=5,
                secret=TokenCipher([key]).encrypt("whsec_"),
            )  # fmt: skip
        assert rotating["detail"].endswith("older key, and 1 secrets of webhooks with one")
        closed = (await doctor())["ENCRYPTION_KEY"]
        assert (closed["state"], closed["detail"]) == ("bad", "does not open 1 secrets of webhooks")
        await add("lost", "2", LOST)
        closed = (await doctor())["ENCRYPTION_KEY"]
        assert (closed["state"], closed["detail"]) == ("bad", "opens 1 of 2 stored tokens, not those of: lost")
    finally:
        await store.aclose()


async def test_what_stops_answers_or_messages_is_told(
    doctor: Doctor, complete: dict[str, str], valkey_url: str
) -> None:
    assert (await doctor())["answers"]["state"] == "ok"
    force = ["breakers", "open", "gemini", "--why", "a rehearsal"]
    assert (await asyncio.to_thread(CliRunner().invoke, main, force, env=complete)).exit_code == 0
    now = time.time()
    with redis.Redis.from_url(valkey_url) as client:  # it wrote for weeks, and last four hours ago
        usual = {str(hour): 10 for hour in range(168)} | {"week": int(now // 3600 // 168)}
        client.hset("chorus:{arrivals}:h:106540352242922", mapping=usual)
        client.zadd("chorus:{arrivals}:last", {"106540352242922": (now - 4 * 3600) * 1000})
    findings = await doctor()
    circuit, number = findings["circuit gemini"], findings["number 106540352242922"]
    assert (circuit["state"], circuit["mend"]) == ("warn", "docs/runbooks/ChorusCircuitOpen.md")
    assert circuit["detail"].startswith("open, forced: ")
    assert (number["state"], number["mend"]) == ("warn", "docs/runbooks/ChorusNumberSilent.md")
    assert number["detail"].startswith("silent for 4.0 h")


async def test_webhooks_that_do_not_take_their_events_are_named(doctor: Doctor, store_url: str) -> None:
    assert (await doctor())["webhooks"]["state"] == "ok"
    store = PostgresStore(store_url)
    account = await store.create_account(
        name="Shop", slug="shop", phone_number_id="1", access_token=TokenCipher([FIRST]).encrypt("t"), verify_token="v"
    )
    endpoint = await store.create_endpoint(
        account.id, url="https://receiver.example/?key=hidden", events=["message.sent"], secret="cipher", most=20
    )
    await store.outbox_work([Settlement(endpoint.id, (), (), "failed", 1000)], [])
    await store.aclose()
    told = (await doctor())["webhooks"]
    assert told["state"] == "warn"
    assert f"{endpoint.id} of account {account.id} (failing since " in told["detail"]
    assert "0 events wait" in told["detail"]
    assert "hidden" not in str(told)


async def test_meta_is_asked_about_every_active_account(doctor: Doctor, store_url: str, outside: str) -> None:
    store, sandbox = PostgresStore(store_url), SandboxClient(outside)
    facts = {"well": {}, "reported": {"quality_rating": "RED"}, "ended": {"token_valid": False}, "off": {}}
    try:
        for number, (slug, more) in enumerate(facts.items()):
            account = await AccountService(store, TokenCipher([FIRST])).create(
                OPERATOR, name=slug, slug=slug, phone_number_id=f"900{number}", access_token=f"token-of-{slug}",
                verify_token="v" * 8,
            )  # fmt: skip
            await sandbox.add_account(f"900{number}", f"token-of-{slug}", **more)
        await store.update_account(account.id, {"is_active": False})
        findings = await doctor()
        assert {name: finding["state"] for name, finding in findings.items() if name.startswith("account ")} == {
            "account well": "ok", "account reported": "warn", "account ended": "bad",
        }  # fmt: skip
        assert "(190)" in findings["account ended"]["detail"]
        away = await doctor(WHATSAPP_BASE_URL="http://127.0.0.1:1")
        for slug in ("well", "reported", "ended"):
            assert away[f"account {slug}"]["state"] == "warn"
            assert away[f"account {slug}"]["detail"].startswith("could not be checked: ")
    finally:
        await store.aclose()
        await close_http_client()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("alter table messages disable row level security", "messages: row-level security is off"),
        ("drop policy service on contacts", "contacts: no policy service"),
        ("drop policy members_read on bot_profiles", "bot_profiles: no policy members_read"),
        ("drop table inbox", "table inbox is missing"),
    ],
)
async def test_rows_that_are_not_guarded_are_named(doctor: Doctor, store_url: str, damage: str, said: str) -> None:
    connection = await asyncpg.connect(store_url)
    await connection.execute(damage)
    await connection.close()
    finding = (await doctor())["row-level security"]
    assert (finding["state"], said in finding["detail"]) == ("bad", True), finding


async def test_the_schema_is_compared_with_the_program(doctor: Doctor, store_url: str, postgres_url: str) -> None:
    none = await doctor(DATABASE_URL=postgres_url)
    assert none["database"]["state"] == "bad"
    assert "chorus migrate" in none["database"]["mend"]
    connection = await asyncpg.connect(store_url)
    records = "supabase_migrations.schema_migrations"
    await connection.execute(f"insert into {records} (version, name) values ('29990101000001', 'chorus_later')")
    newer = (await doctor())["schema"]
    assert (newer["state"], "newer than this program" in newer["detail"]) == ("warn", True)
    await connection.execute(f"delete from {records} where version >= '{NEWEST}'")
    older = (await doctor())["schema"]
    assert (older["state"], NEWEST in older["detail"], older["mend"]) == ("bad", True, "chorus migrate")
    await connection.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://{user}:wrong@{place}/postgres", "wrong user or password"),
        ("postgresql://{user}:{password}@{place}/nodb", "no database of that name"),
        ("postgresql://{user}:{password}@{place}/postgres?sslmode=require", "no TLS"),
        ("postgresql://no-such-host.invalid/x", "the host name is unknown"),
    ],
)
async def test_the_databases_refusal_is_told_in_words(doctor: Doctor, store_url: str, url: str, said: str) -> None:
    where = urlsplit(store_url)
    place = f"{where.hostname}:{where.port}"
    given = url.format(user=where.username, password=where.password, place=place)
    finding = (await doctor(DATABASE_URL=given))["database"]
    assert (finding["state"], said in finding["detail"]) == ("bad", True), finding
    assert str(where.password) not in str(finding)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("pgbouncer=true", "has an option that does not exist: pgbouncer"),
        ("options=-cfoo%3Dbar", "has an option that does not exist: foo"),
        ("sslmode=verify-full", "sslrootcert="),
        ("sslmode=nonsense", "has a value of sslmode that does not exist"),
    ],
)
async def test_a_setting_that_only_the_database_finds_wrong_is_told_once_and_by_name(
    doctor: Doctor, store_url: str, option: str, said: str
) -> None:
    mark = "&" if "?" in store_url else "?"
    findings = await doctor(DATABASE_URL=f"{store_url}{mark}{option}")
    assert bad(findings) == {"DATABASE_URL"}
    assert said in findings["DATABASE_URL"]["mend"]
    assert findings["gemini"]["state"] == findings["redis"]["state"] == "ok"
    owner = await doctor(MIGRATE_DATABASE_URL=f"{store_url}{mark}{option}")
    assert bad(owner) == {"schema"}
    assert "MIGRATE_DATABASE_URL: " in owner["schema"]["mend"]
    assert said in owner["schema"]["mend"]


async def test_the_owners_database_that_is_away_is_not_taken_for_the_replicas(doctor: Doctor) -> None:
    findings = await doctor(MIGRATE_DATABASE_URL="postgresql://127.0.0.1:1/x")
    assert bad(findings) == {"schema"}
    assert "127.0.0.1:1: connection refused" in findings["schema"]["detail"]
    assert "(MIGRATE_DATABASE_URL)" in findings["schema"]["mend"]


async def test_redis_refusal_is_told_in_words(doctor: Doctor, valkey_url: str) -> None:
    where = urlsplit(valkey_url)
    wrong = await doctor(REDIS_URL=f"redis://:wrong@127.0.0.1:{where.port}/0", REDIS_CACHE_URL="redis://127.0.0.1:1")
    assert "wrong user or password" in wrong["redis"]["detail"]
    assert "REDIS_CACHE_URL" in wrong["redis cache"]["mend"]
    assert (await doctor(REDIS_CACHE_URL=valkey_url))["redis cache"]["state"] == "ok"
    with redis.Redis.from_url(valkey_url) as admin:
        most = ["+@all", "-evalsha", "-eval"]
        admin.acl_setuser("limited", enabled=True, passwords=["+pw"], commands=most, keys=["*"], reset=True)
        try:
            limited = await doctor(REDIS_URL=f"redis://limited:pw@127.0.0.1:{where.port}/0")
        finally:
            admin.acl_deluser("limited")
    assert limited["redis"]["state"] == "ok"
    assert (limited["redis rights"]["state"], "forbids" in limited["redis rights"]["detail"]) == ("bad", True)


async def test_tls_that_does_not_fit_is_told_in_words(doctor: Doctor, outside: str, tmp_path: Path) -> None:
    with running_fronts(tmp_path) as fronts:
        secure = f"https://127.0.0.1:{fronts.before(urlsplit(outside).port or 0)}"
        unknown = (await doctor(GEMINI_BASE_URL=secure))["gemini"]
        assert "unknown CA" in unknown["detail"]
        assert "SSL_CERT_FILE" in unknown["mend"]
        known = await doctor(GEMINI_BASE_URL=secure, HTTP_TRUST_ENV="true", SSL_CERT_FILE=str(fronts.authority))
        assert known["gemini"]["state"] == "ok"
    plain = (await doctor(WHATSAPP_BASE_URL=outside.replace("http://", "https://")))["whatsapp"]
    assert "does not speak TLS" in plain["detail"]


async def test_a_dependency_that_is_silent_delays_no_other(doctor: Doctor) -> None:
    async def silence(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            pass

    async with peer(silence) as url, asyncio.timeout(25):
        place = urlsplit(url).netloc
        findings = await doctor(REDIS_URL=f"redis://{place}", DATABASE_URL=f"postgresql://{place}/x")
    assert bad(findings) == {"redis", "database"}
    for subject in ("redis", "database"):
        assert "no answer" in findings[subject]["detail"]


async def test_a_check_that_breaks_is_a_finding_of_its_own() -> None:
    async def broken() -> list[Finding]:
        raise KeyError("why")

    async def endless() -> list[Finding]:
        await asyncio.Event().wait()
        return []

    (failed,) = await bounded("one", broken)
    assert (failed.subject, failed.is_bad, "KeyError" in failed.detail) == ("one", True, True)
    (late,) = await bounded("two", endless, seconds=0.01)
    assert (late.subject, late.is_bad, "no answer" in late.detail) == ("two", True, True)


async def test_the_report_for_people_has_a_line_for_each_finding(doctor: Doctor, complete: dict[str, Any]) -> None:
    await doctor()
    shown = (await run(**complete)).stdout
    for subject in EVERYTHING:
        assert f"{subject}" in shown


def test_the_expected_policies_are_those_of_the_migrations() -> None:
    assert expected_policies()["whatsapp_accounts"] == {"service", "members_read"}
    assert expected_policies()["inbox"] == {"service"}
    sql = """
    create table public.a (x int); select chorus.secure_table('public.a'); create policy p on public.a for select;
    create table if not exists public.b (y int); -- create policy q on public.b
    drop policy if exists p on public.a; drop table public.gone;
    """
    assert policies_of([sql]) == {"a": {"service"}, "b": frozenset()}


@pytest.mark.parametrize(
    ("more", "subjects"), [({}, ["DAILY_TOKENS_PER_ACCOUNT"]), ({"daily_tokens_per_account": 1}, [])]
)
def test_strangers_accounts_without_a_bound_are_warned_of(more: dict[str, int], subjects: list[str]) -> None:
    opened = {"signup": "open", "supabase_url": "https://a.supabase.co", "supabase_key": "k"}
    settings = settings_of("http://127.0.0.1:1", "redis://127.0.0.1:1", "postgresql://127.0.0.1:1/a", **opened, **more)
    assert [finding.subject for finding in check_limits(settings)] == subjects


@pytest.mark.parametrize(
    ("more", "subjects"),
    [
        ({"supabase_publishable_key": "k"}, ["PUBLIC_URL"]),
        ({"supabase_key": "k"}, ["PUBLIC_URL"]),
        ({"supabase_key": "k", "public_url": "https://h"}, []),
        ({"supabase_key": "k", "app_env": "development"}, []),
        ({}, []),
    ],
)
def test_mails_whose_links_may_lead_elsewhere_are_warned_of(more: dict[str, str], subjects: list[str]) -> None:
    told = {"app_env": "production", "supabase_url": "https://a.supabase.co"} | more
    settings = settings_of("http://127.0.0.1:1", "redis://127.0.0.1:1", "postgresql://127.0.0.1:1/a", **told)
    found = list(check_limits(settings))
    assert [(finding.subject, finding.state) for finding in found] == [(subject, "warn") for subject in subjects]


@pytest.mark.parametrize(("interim", "deadline", "subjects"), [(30, 30, ["INTERIM_SECONDS"]), (30, 31, []), (0, 1, [])])
def test_an_interim_text_that_can_never_come_is_warned_of(interim: float, deadline: float, subjects: list[str]) -> None:
    more = {"interim_seconds": interim, "reply_deadline_seconds": deadline}
    settings = settings_of("http://127.0.0.1:1", "redis://127.0.0.1:1", "postgresql://127.0.0.1:1/a", **more)
    assert [finding.subject for finding in check_limits(settings)] == subjects


async def test_limits_that_contradict_each_other_are_warned_of(doctor: Doctor, valkey_url: str) -> None:
    everything = await doctor()
    names = {
        "WORKER_CONCURRENCY",
        "QUEUE_MAX_PENDING",
        "redis connections",
        "DATABASE_CONNECTIONS",
        "database connections",
    }
    assert not names & set(everything)
    with redis.Redis.from_url(valkey_url) as server:
        before = server.config_get("maxclients")["maxclients"]
        server.config_set("maxclients", 500)
        try:
            found = await doctor(WORKER_CONCURRENCY="401", QUEUE_MAX_PENDING="400", DATABASE_CONNECTIONS="10")
        finally:
            server.config_set("maxclients", before)
    told = {name: finding for name, finding in found.items() if name not in everything}
    assert set(told) == names - {"database connections"}
    assert {finding["state"] for finding in told.values()} == {"warn"}
    assert "maxclients is 500" in told["redis connections"]["detail"]
    many = (await doctor(DATABASE_CONNECTIONS="450"))["database connections"]
    assert (many["state"], "may open 451" in many["detail"]) == ("warn", True)
    assert not set(await doctor(WORKER_CONCURRENCY="401", APP_ROLE="api")) - set(everything)
