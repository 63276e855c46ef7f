"""What Meta reports about an account is kept with it, on every store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.adapters.sql_store import SqlStore
from app.domain.models import Account, BlockReason
from tests.support.store_kit import NewAccount

NOW = datetime(2026, 11, 27, 3, tzinfo=UTC)


def report(words: str = "the account is disabled", at: datetime = NOW) -> dict[str, Any]:
    told = {"field": "account_update", "event": "DISABLED_UPDATE", "words": words, "severity": "error"}
    return {"at": at.isoformat(), **told}


async def tell(
    store: SqlStore, account: Account, notice: dict[str, Any], *, block: BlockReason | None = None, ends: bool = False
) -> tuple[str, ...]:
    return await store.account_notice(
        phone_number_id=account.phone_number_id,
        phone_number=None,
        notice=notice,
        block=block,
        ends_block=ends,
        confirm=3,
    )


async def now(store: SqlStore, account: Account) -> Account:
    found = await store.get_account(account.id)
    assert found is not None
    return found


async def test_a_report_is_kept_and_blocks_until_one_that_ends_it(store: SqlStore, new_account: NewAccount) -> None:
    account = await new_account()
    assert account.last_notice is None
    assert await tell(store, account, report(), block=BlockReason.ACCOUNT_LOCKED) == (account.id,)
    found = await now(store, account)
    assert found.last_notice == report()
    assert (found.blocked_reason, found.refusals, found.is_blocked) == ("account_locked", 3, True)
    good = report("enabled again", NOW + timedelta(minutes=1))
    await tell(store, account, good, ends=True)
    found = await now(store, account)
    assert (found.last_notice, found.is_blocked, found.refusals, found.blocked_reason) == (good, False, 0, None)


async def test_a_report_that_came_late_changes_nothing(store: SqlStore, new_account: NewAccount) -> None:
    account = await new_account()
    await tell(store, account, report("enabled again", NOW), ends=True)
    late = report("disabled", NOW - timedelta(minutes=1))
    assert await tell(store, account, late, block=BlockReason.ACCOUNT_LOCKED) == ()
    found = await now(store, account)
    assert found.last_notice is not None
    assert (found.last_notice["words"], found.is_blocked) == ("enabled again", False)


async def test_a_report_that_blocks_nothing_leaves_a_block_as_it_is(store: SqlStore, new_account: NewAccount) -> None:
    account = await new_account()
    await tell(store, account, report(), block=BlockReason.ACCOUNT_LOCKED)
    await tell(store, account, report("quality is low", NOW + timedelta(minutes=1)))
    assert (await now(store, account)).blocked_reason == "account_locked"


@pytest.mark.parametrize("stored", ["+1 (555) 000-4711", "15550004711"])
async def test_an_account_is_found_by_its_number_too(store: SqlStore, new_account: NewAccount, stored: str) -> None:
    account = await new_account()
    await store.update_account(account.id, {"phone_number": stored})
    found = await store.account_notice(
        phone_number_id=None, phone_number="15550004711", notice=report(), block=None, ends_block=False, confirm=3
    )
    assert account.id in found
    other = {"phone_number_id": None, "phone_number": "15550000001"}
    assert await store.account_notice(**other, notice=report(), block=None, ends_block=False, confirm=3) == ()
    await store.update_account(account.id, {"phone_number": None})
