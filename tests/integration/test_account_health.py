"""An account's health, from Meta's answers to what people, customers and other systems see of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import asyncpg
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from app.adapters import graph_inspector
from app.adapters.graph_inspector import GraphInspector
from app.adapters.postgres_store import PostgresStore
from app.api.deps import OPERATOR
from app.core.errors import Unavailable
from app.core.fleet.lease import Lease
from app.core.http_client import close_http_client, request
from app.core.redis.door import Door
from app.core.secrets import TokenCipher
from app.domain.account_health import AccountHealth, Judgement, MetaSaid, Problem, State, Verdict
from app.domain.app_secrets import read_app_secrets
from app.domain.models import Account
from app.localhost.servers import Postgres
from app.sandbox.app import running_sandbox
from app.sandbox.client import SandboxClient
from app.sandbox.config import APP_ID, SandboxConfig
from app.services import account_health
from app.services.account_health import AccountChecks, AccountHealthRounds, show
from app.services.account_service import AccountService
from tests.support.fakes import FakeClock
from tests.support.patience import Within
from tests.support.store_kit import unique

TOKEN = "EAAG-the-token-that-opens-the-number"


pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Clinic:
    """An account that Meta's stand-in knows, and what checks it: nothing in it waits."""

    store: PostgresStore
    cipher: TokenCipher
    control: SandboxClient
    accounts: AccountService
    account: Account
    database_url: str

    def checks(self, *, app_secret: str = f"{APP_ID}:secret-of-the-app", fresh_seconds: float = 5) -> AccountChecks:
        inspector = GraphInspector(
            base_url=self.control.url,
            api_version="v26.0",
            cipher=self.cipher,
            app_secrets=read_app_secrets([app_secret]),
        )
        return AccountChecks(
            self.accounts, self.store, inspector, confirm_seconds=0, fresh_seconds=fresh_seconds
        )  # fmt: skip

    async def meta(self, **facts: object) -> None:
        """What Meta knows of the number from now on."""
        await self.control.add_account(self.account.phone_number_id, TOKEN, **facts)

    async def now(self) -> Account:
        found = await self.store.get_account(self.account.id)
        assert found is not None
        return found

    async def health(self) -> AccountHealth:
        return await self.store.account_health(self.account.id)

    async def checked(self) -> AccountHealth:
        await self.checks().check(await self.now())
        return await self.health()

    async def asked(self) -> int:
        return len(await self.control.record(kind="number"))

    async def fetch(self, query: str) -> list[tuple[Any, ...]]:
        sql = await asyncpg.connect(self.database_url)
        try:
            return [tuple(row) for row in await sql.fetch(query)]
        finally:
            await sql.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def outside(postgres: Postgres, migrated_template: str) -> AsyncIterator[tuple[PostgresStore, str, str]]:
    """For the whole module: a database, and Meta's stand-in."""
    postgres.start()
    postgres.execute(f"CREATE DATABASE account_health TEMPLATE {migrated_template}")
    store = PostgresStore(postgres.url_of("account_health"))
    async with running_sandbox(SandboxConfig()) as sandbox:
        yield store, postgres.url_of("account_health"), sandbox.url
    await store.aclose()
    await close_http_client()
    postgres.execute("DROP DATABASE account_health WITH (FORCE)")


@pytest_asyncio.fixture(loop_scope="module")
async def clinic(outside: tuple[PostgresStore, str, str]) -> Clinic:
    """With an account of the test's own, the only one that is active."""
    store, database_url, sandbox_url = outside
    control = SandboxClient(sandbox_url)
    await control.reset()
    for account in await store.list_accounts(user_id=None):
        await store.update_account(account.id, {"is_active": False})
    cipher = TokenCipher([TokenCipher.generate_key()])
    accounts = AccountService(store, cipher)
    name = unique("shop")
    account = await accounts.create(
        OPERATOR, name=name, slug=name, phone_number_id=f"8{time.time_ns()}", access_token=TOKEN, verify_token="v"
    )
    made = Clinic(store, cipher, control, accounts, account, database_url)
    await made.meta()
    return made


async def test_an_account_that_is_well(clinic: Clinic) -> None:
    await clinic.meta(display_phone_number="33123456789", token_expires_at=4_102_444_800)
    health = await clinic.checked()
    assert (health.verdict, health.reason, health.failure) == (Verdict.HEALTHY, None, None)
    report = health.report
    assert report is not None
    assert (report.token.valid, report.token.expires_at) == (True, datetime(2100, 1, 1, tzinfo=UTC))
    number = report.number
    assert (number.display_phone_number, number.quality_rating, number.messaging_limit_tier) == (
        "33123456789", "GREEN", "TIER_1K",
    )  # fmt: skip
    assert (number.status, number.name_status, number.throughput) == ("CONNECTED", "APPROVED", "STANDARD")
    assert report.subscription.waba_id == "102290129340398"
    assert (report.subscription.subscribed, report.subscription.app_id) == (True, APP_ID)


SESSION_EXPIRED = MetaSaid(
    "(#190) Access token has expired: The access token is invalid or has expired.", 190, 463
)  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "reason", "verdict", "part", "said"),
    [
        ({"token_valid": False}, "token_invalid", "unhealthy", "token", SESSION_EXPIRED),
        ({"token_scopes": []}, None, "healthy", "token", None),
        ({"token_scopes": ["whatsapp_business_management"]}, "permission_missing", "unhealthy", "token", None),
        ({"token_expires_at": 1}, None, "healthy", "token", None),
        ({"status": "DISCONNECTED"}, "number_not_registered", "unhealthy", "number", None),
        (
            {"can_send_message": "BLOCKED"}, "account_locked", "unhealthy", "number",
            MetaSaid(
                "There is an error with the payment method.: Add a new payment method to the account.", 141006, None
            ),
        ),
        ({"quality_rating": "RED"}, "quality_low", "attention", "number", None),
        ({"name_status": "DECLINED"}, "name_declined", "attention", "number", None),
        ({"subscribed_apps": []}, "not_subscribed", "unhealthy", "subscription", None),
        ({"subscribed_apps": ["7777777"]}, "not_subscribed", "unhealthy", "subscription", None),
    ],
)  # fmt: skip
async def test_what_meta_says_decides(
    clinic: Clinic, facts: dict[str, object], reason: str | None, verdict: str, part: str, said: MetaSaid | None
) -> None:
    await clinic.meta(**facts)
    health = await clinic.checked()
    assert (health.reason, health.verdict) == (reason, verdict)
    assert health.report is not None
    assert getattr(health.report, part).said == said
    assert TOKEN not in repr(health)
    blocks = verdict == "unhealthy" and reason != "not_subscribed"
    assert (await clinic.now()).blocked_reason == (reason if blocks else None)
    await clinic.meta()
    assert (await clinic.checked()).verdict is Verdict.HEALTHY
    assert not (await clinic.now()).is_blocked


@pytest.mark.parametrize(
    "fault",
    [
        {"http_status": 503}, {"http_status": 502, "match": {"operation": "number"}}, {"action": "drop_before"},
        {"action": "refuse"}, {"action": "hang_before"}, {"error": "131000"}, {"error": "4"},
        {"http_status": 500, "match": {"operation": "subscribed_apps"}},
    ],
)  # fmt: skip
async def test_a_check_that_could_not_be_made_says_so_and_changes_no_verdict(
    clinic: Clinic, fault: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    await clinic.checked()
    monkeypatch.setattr(graph_inspector, "ASK_SECONDS", 0.5)
    await clinic.control.add_fault("whatsapp", **fault)
    health = await clinic.checked()
    assert health.failure
    assert (health.verdict, health.reason) == (Verdict.HEALTHY, None)
    assert not (await clinic.now()).is_blocked
    monkeypatch.undo()
    await clinic.control.clear_faults()
    assert (await clinic.checked()).failure is None


async def test_a_slow_meta_costs_a_bounded_time(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, within: Within
) -> None:
    monkeypatch.setattr(graph_inspector, "ASK_SECONDS", 0.5)
    await clinic.control.add_fault("whatsapp", latency_ms=60_000)
    async with asyncio.timeout(within(3)):
        assert (await clinic.checked()).failure == "Meta was not reached: no answer in time"
    await clinic.control.clear_faults()


async def test_one_refusal_of_a_healthy_token_blocks_nothing(clinic: Clinic) -> None:
    """Single ones happen: a second look decides."""
    for operation in ("number", "debug_token"):
        await clinic.control.add_fault("whatsapp", error="190", count=1, match={"operation": operation})
    health = await clinic.checked()
    assert (health.verdict, (await clinic.now()).is_blocked) == (Verdict.HEALTHY, False)


async def test_a_rule_for_sends_is_not_used_up_by_checks(clinic: Clinic) -> None:
    rule = await clinic.control.add_fault("whatsapp", latency_ms=1, count=1)
    await clinic.checked()
    assert (await clinic.control.get_fault(rule))["fired"] == 0


async def test_a_version_without_health_status_is_asked_without_it(clinic: Clinic) -> None:
    await clinic.control.add_fault("whatsapp", error="100", count=1, match={"operation": "number"})
    health = await clinic.checked()
    assert health.verdict is Verdict.HEALTHY
    assert health.report is not None
    assert health.report.number.can_send_message is None
    assert health.report.subscription.subscribed, "the token tells the WhatsApp Business account as well"


async def test_metas_words_lose_the_token_that_they_quote(clinic: Clinic) -> None:
    quoting = f'{{"error": {{"message": "Malformed access token {TOKEN} of +33612345678\\nx", "code": 190}}}}'
    await clinic.control.add_fault("whatsapp", http_status=401, body=quoting)
    health = await clinic.checked()
    assert health.report is not None
    assert health.report.token.said == MetaSaid("Malformed access token … of [redacted] x", 190, None)
    await clinic.control.clear_faults()


async def test_a_token_that_no_key_opens_is_told_without_asking_meta(clinic: Clinic) -> None:
    other = TokenCipher([TokenCipher.generate_key()])
    account = await clinic.store.update_account(clinic.account.id, {"access_token": other.encrypt(TOKEN)})
    before = await clinic.control.summary()
    health = await clinic.checked()
    assert health.reason is Problem.TOKEN_UNREADABLE
    assert (await clinic.control.summary())["last_seq"] == before["last_seq"]
    assert (await clinic.now()).blocked_reason == "token_unreadable"
    assert account.access_token not in repr(health)


async def test_a_token_that_is_replaced_during_its_check_is_not_blamed(clinic: Clinic) -> None:
    await clinic.control.add_account(clinic.account.phone_number_id, "the-new-one")
    asked_with = await clinic.now()
    await clinic.accounts.update(asked_with.id, {"access_token": "the-new-one"})
    await clinic.checks().check(asked_with)
    assert (await clinic.store.account_health(asked_with.id)).verdict is None
    assert not (await clinic.now()).is_blocked


async def test_the_change_of_a_verdict_is_an_event(clinic: Clinic) -> None:
    await clinic.store.create_endpoint(
        clinic.account.id, url="https://x.example/", events=["account.blocked", "account.restored"], secret="c", most=20
    )
    for facts in ({"token_valid": False}, {}, {"subscribed_apps": []}, {}):
        await clinic.meta(**facts)
        await clinic.checked()
        await clinic.checked()
    told = "select type, payload #>> '{account,blocked_reason}' from outbox order by seq"
    assert await clinic.fetch(told) == [
        ("account.blocked", "token_invalid"), ("account.restored", "token_invalid"),
        ("account.blocked", "not_subscribed"), ("account.restored", "not_subscribed"),
    ]  # fmt: skip


async def until(happened: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await happened():
            await asyncio.sleep(0.01)


async def test_one_replica_checks_for_all_and_at_once_after_a_change(
    clinic: Clinic, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_health, "ROUND_SECONDS", 0.05)
    door = Door.to(valkey_url)

    def replica(name: str) -> asyncio.Task[None]:
        lease = Lease(door, key="test:{fleet}:account_health", holder=name, seconds=60)
        return asyncio.create_task(AccountHealthRounds(clinic.store, clinic.checks(), lease).run(lambda: None))

    async def asked_again() -> bool:
        return await clinic.asked() > before

    before = 0
    running = [replica(name) for name in ("a", "b")]
    try:
        await until(asked_again)
        await asyncio.sleep(0.3)  # time itself: six rounds of each in which nothing is due
        assert await clinic.asked() == 1
        await clinic.meta(quality_rating="RED")
        before = 1
        await clinic.accounts.update(clinic.account.id, {"access_token": TOKEN})
        await until(asked_again)
        before = 2
        await clinic.accounts.update(clinic.account.id, {"is_active": False})
        await clinic.accounts.update(clinic.account.id, {"is_active": True})
        await until(asked_again)
        assert await clinic.asked() == 3
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        await door.aclose()


async def test_of_many_those_that_changed_come_first_and_each_is_counted(clinic: Clinic) -> None:
    accounts = [await clinic.now()]
    for number in range(3):
        name = unique("shop")
        accounts.append(
            await clinic.accounts.create(
                OPERATOR,
                name=name,
                slug=name,
                phone_number_id=f"7{time.time_ns()}",
                access_token=TOKEN,
                verify_token="v",
            )
        )
        await clinic.control.add_account(
            accounts[-1].phone_number_id, TOKEN, quality_rating="RED" if number else "GREEN"
        )
    for account in accounts:
        await clinic.checks().check(account)
    await clinic.fetch("update account_health set tried_at = now() - interval '1 hour' returning 1")
    await clinic.store.update_account(accounts[2].id, {"access_token": accounts[0].access_token})
    found = await clinic.store.account_health_round(limit=2, every_seconds=600, again_seconds=60)
    assert (len(found.due), found.due[0].id) == (2, accounts[2].id)
    assert [(each.verdict, each.reason, each.count) for each in found.problems] == [
        (Verdict.ATTENTION, Problem.QUALITY_LOW, 2)
    ]
    show(found.problems)
    labels = {"verdict": "attention", "reason": "quality_low"}
    assert REGISTRY.get_sample_value("chorus_account_problem", labels) == 2
    show(())
    assert REGISTRY.get_sample_value("chorus_account_problem", labels) is None


async def test_a_person_who_asks_gets_a_new_answer_but_not_more_often_than_every_five_seconds(clinic: Clinic) -> None:
    checks = clinic.checks()
    _, before = await checks.view(OPERATOR, clinic.account.id)
    assert before == AccountHealth()
    account, first = await checks.view(OPERATOR, clinic.account.id, refresh=True)
    assert (account.id, first.verdict) == (clinic.account.id, Verdict.HEALTHY)
    _, second = await checks.view(OPERATOR, clinic.account.id, refresh=True)
    assert second == first
    later = clinic.checks(fresh_seconds=0)
    _, third = await later.view(OPERATOR, clinic.account.id, refresh=True)
    assert third.checked_at is not None
    assert first.checked_at is not None
    assert timedelta(0) < third.checked_at - first.checked_at


async def test_without_the_apps_id_the_token_is_asked_about_itself(clinic: Clinic) -> None:
    checks = clinic.checks(app_secret="a-secret-of-some-app")
    await clinic.meta(token_expires_at=4_102_444_800)
    report = (await checks.check(clinic.account)).report
    assert (report.token.expires_at, report.subscription.state) == (datetime(2100, 1, 1, tzinfo=UTC), State.OK)
    await clinic.meta(subscribed_apps=["7777777"])
    judgement = await checks.check(clinic.account)
    assert (judgement.verdict, judgement.report.subscription.state) == (Verdict.HEALTHY, State.UNKNOWN)


async def test_an_app_that_is_subscribed_again_gets_webhooks(clinic: Clinic) -> None:
    await clinic.meta(waba_id="5551", subscribed_apps=["7777777"])
    assert (await clinic.checked()).reason is Problem.NOT_SUBSCRIBED
    url, headers = f"{clinic.control.url}/v26.0/5551/subscribed_apps", {"authorization": f"Bearer {TOKEN}"}
    for method, reason in (("POST", None), ("DELETE", Problem.NOT_SUBSCRIBED)):
        assert (await request(method, url, headers=headers, timeout_seconds=5)).status == 200
        assert (await clinic.checked()).reason is reason


async def test_a_round_whose_answers_are_not_kept_does_not_go_on_at_once(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_health, "ROUND_ACCOUNTS", 1)
    checks, lease = clinic.checks(), cast("Lease", None)
    assert await AccountHealthRounds(clinic.store, checks, lease).round()
    assert not await AccountHealthRounds(clinic.store, checks, lease).round(), "nothing is due"

    async def away(_account: Account) -> Judgement:
        raise Unavailable("database", "it is read-only")

    await clinic.store.update_account(clinic.account.id, {"access_token": clinic.cipher.encrypt(TOKEN)})
    monkeypatch.setattr(checks, "check", away)
    assert not await AccountHealthRounds(clinic.store, checks, lease).round()


async def test_what_meta_said_before_the_process_was_stopped_for_long_is_not_kept(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()
    inspector = clinic.checks()._inspector
    checks = AccountChecks(clinic.accounts, clinic.store, inspector, confirm_seconds=0, clock=clock)
    await clinic.meta(subscribed_apps=["7777777"])
    ask = checks.ask

    async def stopped_after(account: Account) -> Judgement:
        judgement = await ask(account)
        clock.advance(account_health.LEASE_SECONDS + 1)
        return judgement

    monkeypatch.setattr(checks, "ask", stopped_after)
    with pytest.raises(Unavailable, match="too old"):
        await checks.check(clinic.account)
    assert await clinic.health() == AccountHealth()
