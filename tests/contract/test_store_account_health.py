"""What Meta says about an account, kept on every store: when it is due, what a verdict changes, and what it tells."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from app.adapters.sql_store import SqlStore
from app.domain.account_health import (
    AccountHealth,
    Judgement,
    MetaSaid,
    NumberReport,
    Problem,
    Report,
    State,
    SubscriptionReport,
    TokenReport,
    Verdict,
)
from app.domain.errors import NotFound
from app.domain.models import Account, BlockReason
from tests.support.store_kit import Scene, message

SAID = MetaSaid("Session has expired \0 é", 190, 463)


def found(*problems: Problem) -> Judgement:
    """A check with these problems."""
    token = TokenReport(
        State.BAD, valid=False, expires_at=datetime(2026, 12, 1, tzinfo=UTC), scopes=("a", "b"), said=SAID
    )
    report = Report(token, NumberReport(State.OK, status="CONNECTED"), SubscriptionReport(State.UNKNOWN), problems)
    if not problems:
        return Judgement(report, Verdict.HEALTHY)
    return Judgement(report, Verdict.UNHEALTHY if problems[0].is_unhealthy else Verdict.ATTENTION)


FAILED = Judgement(found().report, None, "whatsapp: HTTP 503")


async def present(store: SqlStore, account: Account) -> Account:
    found = await store.get_account(account.id)
    assert found is not None
    return found


async def record(store: SqlStore, account: Account, judgement: Judgement) -> Account:
    """The account after a check during which nothing changed."""
    now = await present(store, account)
    await store.record_account_health(
        account.id, judgement, access_token=now.access_token, updated_at=now.updated_at, confirm=3
    )
    return await present(store, account)


async def events(sql: asyncpg.Connection, account: Account) -> list[tuple[str, str]]:
    rows = await sql.fetch(
        "select type, payload #>> '{account,blocked_reason}' as reason from outbox where account_id = $1 order by seq",
        uuid.UUID(account.id),
    )
    return [(row["type"], row["reason"]) for row in rows]


async def listen(store: SqlStore, account: Account) -> None:
    await store.create_endpoint(
        account.id, url="https://x.example/", events=["account.blocked", "account.restored"], secret="c", most=20
    )


async def due(store: SqlStore, account: Account, *, every: float = 600, again: float = 60) -> bool:
    found = await store.account_health_round(limit=100_000, every_seconds=every, again_seconds=again)
    return account.id in {each.id for each in found.due}


async def test_what_a_check_found_is_kept(scene: Scene) -> None:
    store, account = scene.store, scene.account
    assert await store.account_health(account.id) == AccountHealth()
    judgement = found(Problem.TOKEN_EXPIRES, Problem.QUALITY_LOW)
    assert not (await record(store, account, judgement)).is_blocked
    kept = await store.account_health(account.id)
    assert (kept.verdict, kept.reason, kept.failure) == (Verdict.ATTENTION, Problem.TOKEN_EXPIRES, None)
    assert kept.report is not None
    assert kept.report.token.said == MetaSaid("Session has expired \ufffd é", 190, 463)
    assert kept.report.token.expires_at == judgement.report.token.expires_at
    assert kept.report.problems == judgement.report.problems
    assert kept.checked_at is not None
    assert kept.checked_at == kept.tried_at


async def test_one_that_could_not_be_made_leaves_the_verdict_and_the_block(scene: Scene) -> None:
    store, account = scene.store, scene.account
    await record(store, account, FAILED)
    first = await store.account_health(account.id)
    assert (first.verdict, first.checked_at, first.failure) == (None, None, "whatsapp: HTTP 503")
    await record(store, account, found(Problem.TOKEN_INVALID))
    blocked = await record(store, account, FAILED)
    assert blocked.blocked_reason == BlockReason.TOKEN_INVALID
    kept = await store.account_health(account.id)
    assert (kept.verdict, kept.failure) == (Verdict.UNHEALTHY, "whatsapp: HTTP 503")
    assert kept.checked_at is not None
    assert kept.tried_at is not None
    assert kept.tried_at > kept.checked_at


async def test_a_block_begins_changes_its_reason_and_ends_with_the_checks_and_each_is_told_once(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    store, account = scene.store, scene.account
    await listen(store, account)
    for _ in range(2):
        blocked = await record(store, account, found(Problem.TOKEN_INVALID))
        assert (blocked.blocked_reason, blocked.refusals) == (BlockReason.TOKEN_INVALID, 3)
    again = await record(store, account, found(Problem.ACCOUNT_LOCKED))
    assert (again.blocked_reason, again.blocked_since) == (BlockReason.ACCOUNT_LOCKED, blocked.blocked_since)
    for _ in range(2):
        well = await record(store, account, found())
        assert (well.is_blocked, well.refusals) == (False, 0)
    assert await events(sql, account) == [
        ("account.blocked", "token_invalid"), ("account.restored", "account_locked"),
    ]  # fmt: skip


async def test_the_end_of_a_block_closes_the_circuit_and_wakes_what_waits(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    """By what the database remembers for the replicas (services/cache_relay.py)."""
    store, account = scene.store, scene.account
    again = f"account:try_again:{account.phone_number_id}"
    query = "select count(*) from cache_invalidations where pattern = $1"
    await record(store, account, found(Problem.TOKEN_INVALID))
    assert await sql.fetchval(query, again) == 0
    await record(store, account, found())
    assert await sql.fetchval(query, again) == 1


async def test_a_block_that_sends_began_is_ended_by_sends_alone(scene: Scene) -> None:
    """WhatsApp may describe a number well and take nothing from it."""
    store, account = scene.store, scene.account
    for _ in range(3):
        await store.account_refused(
            account.id, access_token=account.access_token, reason=BlockReason.PAYMENT_PROBLEM, confirm=3
        )
    assert (await record(store, account, found())).blocked_reason == BlockReason.PAYMENT_PROBLEM
    assert (await record(store, account, found(Problem.TOKEN_INVALID))).blocked_reason == BlockReason.PAYMENT_PROBLEM
    assert (await record(store, account, found())).is_blocked
    assert await store.account_accepted(account.id, access_token=account.access_token)
    assert not (await record(store, account, found())).is_blocked


async def test_an_accepted_send_ends_the_block_of_a_check(scene: Scene) -> None:
    store, account = scene.store, scene.account
    await record(store, account, found(Problem.TOKEN_INVALID))
    assert await store.account_accepted(account.id, access_token=account.access_token)
    assert not (await record(store, account, found())).is_blocked


async def test_a_missing_subscription_blocks_no_send_and_is_told_in_the_same_words(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    store, account = scene.store, scene.account
    await listen(store, account)
    for _ in range(2):
        assert not (await record(store, account, found(Problem.NOT_SUBSCRIBED))).is_blocked
    await record(store, account, FAILED)
    await record(store, account, found(Problem.QUALITY_LOW))
    assert await events(sql, account) == [
        ("account.blocked", "not_subscribed"), ("account.restored", "not_subscribed"),
    ]  # fmt: skip


async def test_an_account_that_nobody_listens_to_writes_no_event(scene: Scene, sql: asyncpg.Connection) -> None:
    for judgement in (found(Problem.NOT_SUBSCRIBED), found(Problem.TOKEN_INVALID), found()):
        await record(scene.store, scene.account, judgement)
    assert await events(sql, scene.account) == []


async def test_what_was_asked_with_another_token_counts_for_nothing(scene: Scene) -> None:
    store, account = scene.store, scene.account
    recorded = await store.record_account_health(
        account.id, found(Problem.TOKEN_INVALID), access_token="of-before", updated_at=account.updated_at, confirm=3
    )
    assert (recorded.current, recorded.is_blocked) == (False, False)
    assert await store.account_health(account.id) == AccountHealth()
    with pytest.raises(NotFound):
        await store.record_account_health(
            str(uuid.uuid4()), found(), access_token="x", updated_at=account.updated_at, confirm=3
        )


async def test_a_check_is_due_at_first_after_ten_minutes_and_after_a_failure_sooner(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    store, account = scene.store, scene.account

    async def age(seconds: int) -> None:
        await sql.execute(
            "update account_health set tried_at = now() - make_interval(secs => $2) where account_id = $1",
            uuid.UUID(account.id), float(seconds),
        )  # fmt: skip

    assert await due(store, account)
    await record(store, account, found())
    assert not await due(store, account)
    await age(599)
    assert not await due(store, account)
    await age(601)
    assert await due(store, account)
    await record(store, account, FAILED)
    await age(59)
    assert not await due(store, account)
    await age(61)
    assert await due(store, account)
    await store.update_account(account.id, {"is_active": False})
    assert not await due(store, account), "an account that is off is left alone"


@pytest.mark.parametrize(
    "changes", [{"access_token": "other"}, {"is_active": False}, {"app_id": "1234567"}, {"phone_number_id": "new-one"}]
)
async def test_a_change_makes_it_due_at_once(scene: Scene, changes: dict[str, object]) -> None:
    store, account = scene.store, scene.account
    await record(store, account, found())
    await store.update_account(account.id, {"name": "Renamed"})
    assert not await due(store, account)
    if "phone_number_id" in changes:
        changes = {"phone_number_id": f"new-{account.id}"}
    await store.update_account(account.id, changes)
    if changes == {"is_active": False}:
        await store.update_account(account.id, {"is_active": True})
    assert await due(store, account)


@pytest.mark.parametrize("judgement", [found(), FAILED, found(Problem.TOKEN_INVALID)])
async def test_a_change_while_meta_is_asked_makes_it_due_again(scene: Scene, judgement: Judgement) -> None:
    store, account = scene.store, scene.account
    await store.update_account(account.id, {"app_id": "1234567"})
    await store.record_account_health(
        account.id, judgement, access_token=account.access_token, updated_at=account.updated_at, confirm=3
    )
    assert await due(store, account)
    await record(store, account, judgement)
    assert not await due(store, account), "its own block is no change"


async def test_metas_report_and_refused_sends_make_it_due_at_once(scene: Scene) -> None:
    store, account = scene.store, scene.account
    await record(store, account, found())
    notice = {"at": datetime.now(UTC).isoformat(), "field": "f", "event": "", "words": "w", "severity": "info"}
    await store.account_notice(
        phone_number_id=account.phone_number_id,
        phone_number=None,
        notice=notice,
        block=None,
        ends_block=False,
        confirm=3,
    )
    assert await due(store, account)
    await record(store, account, found())
    await store.account_refused(
        account.id, access_token=account.access_token, reason=BlockReason.PAYMENT_PROBLEM, confirm=1
    )
    assert await due(store, account)


async def test_when_a_customer_wrote_last_is_found_among_conversations_that_only_heard(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    at = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)
    for number, hours in enumerate((2, 0, 1)):
        await scene.receive(message(at=at - timedelta(hours=hours)), wa_id=f"3361000000{number}")
    for number in (0, 2):  # a customer wrote to them since
        await sql.execute(
            "update conversations c set last_message_at = now() from contacts k"
            " where k.id = c.contact_id and k.wa_id = $1 and c.account_id = $2",
            f"3361000000{number}", uuid.UUID(scene.account.id),
        )  # fmt: skip
    assert (await scene.store.account_health(scene.account.id)).last_inbound_at == at
