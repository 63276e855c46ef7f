"""What a commit makes old is remembered with it, whoever commits, under the keys the application uses."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import asyncpg
import pytest

from app.adapters.postgres_store import PostgresStore
from app.domain.models import Account
from app.services.account_service import _keys, _profile_key
from app.services.cache_relay import TRY_AGAIN

LISTENING = """select pid from pg_stat_activity
where datname = current_database() and query ilike 'listen%chorus_cache%'"""


@pytest.fixture(autouse=True)
async def _nothing_pending(store, sql):
    await sql.execute("delete from cache_invalidations")


async def pending(store) -> list[str]:
    return sorted(invalidation.pattern for invalidation in await store.pending_invalidations(limit=100))


def keys_of(account: Account) -> list[str]:
    fields = ("id", "phone_number_id", "verify_token")
    return _keys({name: getattr(account, name) for name in fields})


async def test_a_new_account_makes_its_absence_old(store, new_account):
    account = await new_account(verify_token="sécret")
    assert await pending(store) == sorted([*keys_of(account), _profile_key(account.id)])


async def test_a_change_makes_the_old_and_the_new_keys_old(store, new_account):
    account = await new_account()
    await store.settle_invalidations([i.id for i in await store.pending_invalidations(limit=100)])
    assert await pending(store) == []
    changed = await store.update_account(account.id, {"phone_number_id": f"{account.phone_number_id}-new"})
    may_send_again = TRY_AGAIN + changed.phone_number_id
    assert await pending(store) == sorted({*keys_of(account), *keys_of(changed), may_send_again})


async def test_an_edited_profile_and_a_deleted_account_are_remembered(store, new_account, sql):
    account = await new_account()
    await sql.execute("delete from cache_invalidations")
    await store.update_profile(account.id, {"business_name": "Bakery"})
    assert await pending(store) == [_profile_key(account.id)]
    await sql.execute("delete from cache_invalidations")
    await sql.execute("delete from whatsapp_accounts where id = $1::uuid", account.id)
    assert await pending(store) == sorted([*keys_of(account), _profile_key(account.id)])


async def test_what_is_rolled_back_is_not_remembered(store, new_account, sql):
    account = await new_account()
    await sql.execute("delete from cache_invalidations")
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute("update bot_profiles set hours = 'never' where account_id = $1::uuid", account.id)
    await transaction.rollback()
    assert await pending(store) == []


async def test_only_so_many_are_handed_out_the_oldest_first(store, new_account):
    account = await new_account()
    for hours in ("8-12", "8-13", "8-14"):
        await store.update_profile(account.id, {"hours": hours})
    first, second = await store.pending_invalidations(limit=2)
    assert first.id < second.id
    await store.settle_invalidations([first.id])
    assert (await store.pending_invalidations(limit=1))[0].id == second.id


async def test_members_can_neither_read_nor_write_them(store, new_account, sql):
    await new_account()
    for role in ("anon", "authenticated"):
        assert not await sql.fetchval("select has_function_privilege($1, 'chorus.forget(text[])', 'execute')", role)
        await sql.execute(f"set role {role}")
        try:
            # Refused, or by row-level security empty: a Supabase project grants its tables to these roles.
            with suppress(asyncpg.InsufficientPrivilegeError):
                assert await sql.fetchval("select count(*) from cache_invalidations") == 0
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await sql.execute("insert into cache_invalidations (pattern) values ('x')")
        finally:
            await sql.execute("reset role")


async def test_over_a_direct_connection_waiting_ends_with_the_commit(store, new_account, sql):
    account = await new_account()
    if not isinstance(store, PostgresStore):
        pytest.skip("nobody notifies over REST")
    await store.wait_for_invalidations(30)  # connects
    waiting = asyncio.create_task(store.wait_for_invalidations(30))
    await asyncio.sleep(0)
    await sql.execute("update bot_profiles set hours = '9-17' where account_id = $1::uuid", account.id)
    await asyncio.wait_for(waiting, 5)


async def test_a_lost_listening_connection_is_replaced(store, sql):
    if not isinstance(store, PostgresStore):
        pytest.skip("nobody listens over REST")
    await store.wait_for_invalidations(30)
    async with asyncio.timeout(10):  # one that an earlier test has closed may still end
        while len(listening := await sql.fetch(LISTENING)) != 1:
            await asyncio.sleep(0.02)
    assert await sql.fetchval("select pg_terminate_backend($1)", listening[0]["pid"])
    await asyncio.wait_for(store.wait_for_invalidations(30), 5)  # something may have been missed: look at once
    await store.wait_for_invalidations(0.1)
    waiting = asyncio.create_task(store.wait_for_invalidations(30))
    await asyncio.sleep(0)
    await sql.execute("select chorus.forget(array['x'])")
    await asyncio.wait_for(waiting, 5)
