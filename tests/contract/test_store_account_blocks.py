"""Accounts that WhatsApp refuses: counted, confirmed, listed, and cleared by what may have mended them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from app.adapters.sql_store import SqlStore
from app.domain.errors import InvalidInput, NotFound
from app.domain.models import Account, BlockReason, Refusal
from tests.support.store_kit import NewAccount, unique

EXPIRED = BlockReason.TOKEN_INVALID


async def refuse(store: SqlStore, account: Account, times: int = 1, reason: BlockReason = EXPIRED) -> list[Refusal]:
    return [
        await store.account_refused(account.id, access_token=account.access_token, reason=reason, confirm=3)
        for _ in range(times)
    ]


async def now(store: SqlStore, account: Account) -> Account:
    found = await store.get_account(account.id)
    assert found is not None
    return found


async def tries_remembered(store: SqlStore, account: Account) -> int:
    """How often the replicas were told to try it again, since this was asked last."""
    found = await store.pending_invalidations(limit=10_000)
    ours = [i.id for i in found if i.pattern == f"account:try_again:{account.phone_number_id}"]
    await store.settle_invalidations(ours)
    return len(ours)


async def test_the_third_refusal_in_a_row_blocks_and_is_news_once(store: SqlStore, new_account: NewAccount) -> None:
    account = await new_account()
    refusals = await refuse(store, account, 5)
    assert [refusal.is_blocked for refusal in refusals] == [False, False, True, True, True]
    assert [refusal.is_news for refusal in refusals] == [False, False, True, False, False]
    assert all(refusal.is_current for refusal in refusals)
    found = await now(store, account)
    assert (found.blocked_reason, found.refusals, found.is_blocked) == (EXPIRED, 3, True)
    assert found.blocked_since is not None
    assert abs(datetime.now(UTC) - found.blocked_since) < timedelta(minutes=1)


async def test_a_good_send_in_between_starts_the_count_anew(store: SqlStore, new_account: NewAccount) -> None:
    account = await new_account()
    await refuse(store, account, 2)
    assert await store.account_accepted(account.id, access_token=account.access_token) is False
    assert not any(refusal.is_blocked for refusal in await refuse(store, account, 2))


async def test_a_good_send_ends_a_block_once(store: SqlStore, new_account: NewAccount) -> None:
    account = await new_account()
    await refuse(store, account, 3)
    assert await store.account_accepted(account.id, access_token=account.access_token) is True
    assert await store.account_accepted(account.id, access_token=account.access_token) is False
    found = await now(store, account)
    assert (found.blocked_reason, found.blocked_since, found.refusals) == (None, None, 0)


async def test_another_reason_replaces_the_first_and_the_block_goes_on(
    store: SqlStore, new_account: NewAccount
) -> None:
    account = await new_account()
    await refuse(store, account, 3)
    since = (await now(store, account)).blocked_since
    (refusal,) = await refuse(store, account, reason=BlockReason.PAYMENT_PROBLEM)
    assert (refusal.is_blocked, refusal.is_news) == (True, False)
    found = await now(store, account)
    assert (found.blocked_reason, found.blocked_since) == (BlockReason.PAYMENT_PROBLEM, since)


@pytest.mark.parametrize("change", [{"access_token": "another"}, {"is_active": False}, {"phone_number_id": "new"}])
async def test_what_may_have_mended_it_ends_the_block(
    store: SqlStore, new_account: NewAccount, change: dict[str, Any]
) -> None:
    account = await new_account()
    await refuse(store, account, 3)
    changed = await store.update_account(account.id, {k: unique() if v == "new" else v for k, v in change.items()})
    assert (changed.blocked_reason, changed.blocked_since, changed.refusals) == (None, None, 0)


async def test_a_new_name_mends_nothing(store: SqlStore, new_account: NewAccount) -> None:
    account = await new_account()
    await refuse(store, account, 3)
    assert (await store.update_account(account.id, {"name": "New", "is_active": True})).is_blocked


async def test_a_refusal_of_the_token_before_counts_for_nothing(store: SqlStore, new_account: NewAccount) -> None:
    account = await new_account()
    await store.update_account(account.id, {"access_token": "another"})
    refusals = await refuse(store, account, 4)
    assert {(r.is_current, r.is_blocked, r.is_news) for r in refusals} == {(False, False, False)}
    assert (await now(store, account)).refusals == 0


async def test_a_refusal_of_the_token_before_is_remembered_for_the_replicas(
    store: SqlStore, new_account: NewAccount
) -> None:
    """The number's circuit counted it."""
    account = await new_account()
    await store.update_account(account.id, {"access_token": "another"})
    assert await tries_remembered(store, account) == 1
    await refuse(store, account, 1)
    assert await tries_remembered(store, account) == 1


async def test_nobody_writes_the_state_by_hand(store: SqlStore, new_account: NewAccount) -> None:
    account = await new_account()
    for field in ("refusals", "blocked_reason", "blocked_since"):
        with pytest.raises(InvalidInput):
            await store.update_account(account.id, {field: None})
    with pytest.raises(NotFound):
        await store.account_refused("no uuid", access_token="t", reason=EXPIRED, confirm=3)
    assert await store.account_accepted("no uuid", access_token="t") is False


async def test_blocked_accounts_are_counted_by_reason_and_named_the_longest_first(
    store: SqlStore, new_account: NewAccount
) -> None:
    before = await store.blocked_accounts(limit=100_000)
    first, second, third, off = [await new_account() for _ in range(4)]
    for account in (first, second, off):
        await refuse(store, account, 3)
    await refuse(store, third, 3, BlockReason.ACCOUNT_LOCKED)
    await store.update_account(off.id, {"is_active": False})
    await refuse(store, off, 3)
    blocked = await store.blocked_accounts(limit=100_000)
    assert blocked.reasons.get(EXPIRED, 0) - before.reasons.get(EXPIRED, 0) == 2, "one that is off disturbs nobody"
    assert blocked.count - before.count == 3
    ours = [account.id for account in blocked.accounts if account.id in {first.id, second.id, third.id, off.id}]
    assert ours == [first.id, second.id, third.id]
    assert len((await store.blocked_accounts(limit=1)).accounts) == 1


async def test_what_may_have_mended_it_is_remembered_for_the_replicas_and_nothing_else_is(
    store: SqlStore, new_account: NewAccount
) -> None:
    account = await new_account()
    remembered = partial(tries_remembered, store, account)
    await store.update_account(account.id, {"name": "New"})
    await refuse(store, account, 3)
    assert await remembered() == 0
    await store.account_accepted(account.id, access_token=account.access_token)
    assert await remembered() == 1
    for change in ({"access_token": "a"}, {"is_active": False}, {"is_active": True}):
        await store.update_account(account.id, change)
        assert await remembered() == 1
    await store.update_account(account.id, {"access_token": "a", "is_active": True})
    assert await remembered() == 0
