"""API keys in the store: found by their digest, bounded, gone when they are revoked; and what the caches hear of it."""

from __future__ import annotations

import asyncio
import uuid

import asyncpg
import pytest

from app.adapters.sql_store import SqlStore
from app.domain.api_keys import PREFIX, ApiKey
from app.domain.errors import Conflict, NotFound
from app.domain.models import Account, Role
from app.domain.opaque_tokens import new_token
from app.services.key_service import _cache_key
from tests.support.store_kit import Scene, uncommitted, until_all_wait


async def make(store: SqlStore, account: Account, *, role: Role = Role.AGENT, most: int = 50) -> ApiKey:
    key = new_token(PREFIX)
    return await store.create_api_key(
        account.id, name="our CRM", role=role, digest=key.digest, hint=key.hint, created_by="ada", by_owner=False,
        most=most,
    )  # fmt: skip


async def test_a_key_is_found_by_its_digest_until_it_is_deleted(scene: Scene) -> None:
    store, account = scene.store, scene.account
    first, second = await make(store, account), await make(store, account, role=Role.VIEWER)
    assert (first.account_id, first.name, first.role, first.created_by) == (account.id, "our CRM", Role.AGENT, "ada")
    assert first.last_used_at is None
    assert await store.list_api_keys(account.id) == (first, second)
    assert await store.get_api_key(account.id, first.id) == first
    assert await store.get_api_key_by_digest(second.digest) == second
    for _ in range(2):  # a repetition after a lost answer
        await store.delete_api_key(account.id, first.id)
    assert await store.get_api_key_by_digest(first.digest) is None
    assert await store.list_api_keys(account.id) == (second,)


async def test_the_key_itself_is_not_stored(scene: Scene, sql: asyncpg.Connection) -> None:
    key = new_token(PREFIX)
    made = await scene.store.create_api_key(
        scene.account.id, name="n", role=Role.OWNER, digest=key.digest, hint=key.hint, created_by="ada",
        by_owner=False, most=50,
    )  # fmt: skip
    row = await sql.fetchval("select to_jsonb(k)::text from api_keys k where id = $1::uuid", made.id)
    assert key.digest in row
    assert key.secret not in row
    assert key.secret.removeprefix("chorus_")[:20] not in row


async def test_another_accounts_keys_are_neither_seen_nor_deleted(scene: Scene, new_account) -> None:
    other = await new_account()
    made = await make(scene.store, scene.account)
    await scene.store.delete_api_key(other.id, made.id)
    assert await scene.store.get_api_key(other.id, made.id) is None
    assert await scene.store.list_api_keys(other.id) == ()
    assert await scene.store.get_api_key_by_digest(made.digest) == made


async def test_an_owner_who_is_removed_at_that_moment_makes_no_key(scene: Scene, sql: asyncpg.Connection) -> None:
    store, account, key = scene.store, scene.account.id, new_token(PREFIX)

    async def made() -> ApiKey:
        return await store.create_api_key(
            account, name="n", role=Role.OWNER, digest=key.digest, hint=key.hint, created_by="ada", by_owner=True,
            most=50,
        )  # fmt: skip

    await store.add_member(account, "ada", Role.OWNER)
    gone = "delete from account_members where account_id = $1::uuid and user_id = 'ada'"
    async with uncommitted(sql, gone, account):
        late = asyncio.create_task(made())
        await until_all_wait(sql, late)
    with pytest.raises(NotFound):
        await late
    assert await store.list_api_keys(account) == ()


async def test_a_key_says_what_role_its_maker_has_by_now(scene: Scene) -> None:
    await scene.store.add_member(scene.account.id, "ada", Role.OWNER)
    assert (await make(scene.store, scene.account)).maker_role is Role.OWNER
    await scene.store.add_member(scene.account.id, "ada", Role.VIEWER)
    assert [key.maker_role for key in await scene.store.list_api_keys(scene.account.id)] == [Role.VIEWER]
    await scene.store.remove_member(scene.account.id, "ada")
    assert [key.maker_role for key in await scene.store.list_api_keys(scene.account.id)] == [None]


async def test_keys_of_an_account_are_bounded(scene: Scene) -> None:
    await make(scene.store, scene.account, most=1)
    with pytest.raises(Conflict) as refused:
        await make(scene.store, scene.account, most=1)
    assert refused.value.code == "too_many_api_keys"


@pytest.mark.parametrize("account_id", ["no-such", str(uuid.UUID(int=7))])
async def test_an_account_that_does_not_exist_has_no_keys(store: SqlStore, account_id: str) -> None:
    with pytest.raises(NotFound):
        await store.create_api_key(
            account_id, name="n", role=Role.VIEWER, digest="0" * 64, hint="0000", created_by="ada",
            by_owner=False, most=50,
        )  # fmt: skip
    assert await store.list_api_keys(account_id) == ()
    assert await store.get_api_key(account_id, "no-such") is None


async def test_a_use_is_noted_and_moves_no_cache(scene: Scene, sql: asyncpg.Connection) -> None:
    made = await make(scene.store, scene.account)
    await sql.execute("delete from cache_invalidations")
    await scene.store.api_keys_used([made.id, str(uuid.uuid4())])
    found = await scene.store.get_api_key(scene.account.id, made.id)
    assert found is not None
    assert found.last_used_at is not None
    await scene.store.api_keys_used([made.id])  # within the same half minute: nothing is written
    assert await scene.store.get_api_key(scene.account.id, made.id) == found
    assert await scene.store.pending_invalidations(limit=100) == ()


async def test_a_new_key_a_deleted_one_and_a_deleted_account_are_remembered_for_the_caches(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    async def remembered() -> set[str]:
        patterns = {each.pattern for each in await scene.store.pending_invalidations(limit=100)}
        await sql.execute("delete from cache_invalidations")
        return patterns

    await remembered()
    first, second = await make(scene.store, scene.account), await make(scene.store, scene.account)
    assert await remembered() == {_cache_key(first.digest), _cache_key(second.digest)}
    await scene.store.delete_api_key(scene.account.id, first.id)
    assert await remembered() == {_cache_key(first.digest)}
    await sql.execute("delete from whatsapp_accounts where id = $1::uuid", scene.account.id)
    assert _cache_key(second.digest) in await remembered()
