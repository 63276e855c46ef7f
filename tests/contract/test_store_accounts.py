"""Accounts, members and profiles, on every store."""

from __future__ import annotations

import asyncio
import re
import uuid
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from app.adapters.migrations import read_migrations
from app.adapters.postgres_store import PostgresStore
from app.adapters.row_security import expected_policies, holes
from app.adapters.sql_store import SqlStore
from app.domain.errors import Conflict, InvalidInput, NotFound
from app.domain.models import Account, BotProfile, OnHandover, Role
from tests.support.store_kit import NewAccount, unique

NOBODY = str(uuid.uuid4())


async def test_an_account_is_returned_as_it_was_given(store: SqlStore) -> None:
    slug = unique("bakery")
    account = await store.create_account(
        name="Bäckerei “Löwe” 🥐",
        slug=slug,
        phone_number_id=slug,
        access_token="cipher",
        verify_token="verify",
        phone_number="+49 30 1",
        bot_auto_on=False,
    )
    assert account == Account(
        id=account.id,
        name="Bäckerei “Löwe” 🥐",
        slug=slug,
        phone_number_id=slug,
        access_token="cipher",
        verify_token="verify",
        phone_number="+49 30 1",
        is_active=True,
        bot_auto_on=False,
        created_at=account.created_at,
        updated_at=account.updated_at,
    )
    assert abs(datetime.now(UTC) - account.created_at) < timedelta(minutes=1)
    assert account.created_at.utcoffset() == timedelta(0)
    assert await store.get_account(account.id) == account
    assert await store.get_account_by_phone_number_id(slug) == account


async def test_what_does_not_exist_is_none(store: SqlStore) -> None:
    assert await store.get_account(NOBODY) is None
    assert await store.get_account("not a uuid") is None
    assert await store.get_account_by_phone_number_id(NOBODY) is None
    assert await store.get_account_by_verify_token(NOBODY) is None
    assert await store.get_role(NOBODY, "user") is None
    assert await store.get_profile(NOBODY) is None


@pytest.mark.parametrize("field", ["slug", "phone_number_id"])
async def test_slug_and_number_are_unique(new_account: NewAccount, field: str) -> None:
    first = await new_account()
    with pytest.raises(Conflict) as caught:
        await new_account(**{field: getattr(first, field)})
    assert caught.value.code == f"{field}_taken"


async def test_of_two_creations_at_once_one_wins(new_account: NewAccount) -> None:
    slug = unique("race")
    results = await asyncio.gather(*(new_account(slug=slug) for _ in range(4)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["Account", "Conflict", "Conflict", "Conflict"]


async def test_a_creation_repeated_after_a_lost_answer_finds_the_account(
    store: SqlStore, new_account: NewAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = uuid.uuid4()
    monkeypatch.setattr("app.adapters.sql_store.uuid.uuid4", lambda: same)
    slug = unique("same")
    first = await new_account(slug=slug, phone_number_id=slug, verify_token="v", owner_id="ada")
    assert await new_account(slug=slug, phone_number_id=slug, verify_token="v", owner_id="ada") == first
    assert await store.get_role(first.id, "ada") is Role.OWNER


async def test_a_shared_verify_token_finds_an_active_account(store: SqlStore, new_account: NewAccount) -> None:
    token = unique("shared")
    first, second = await new_account(verify_token=token), await new_account(verify_token=token)
    await store.update_account(first.id, {"is_active": False})
    assert await store.get_account_by_verify_token(token) == second


async def test_an_update_changes_what_it_names(store: SqlStore, new_account: NewAccount) -> None:
    account = await new_account(phone_number="+331")
    changed = await store.update_account(account.id, {"name": "New", "phone_number": None, "is_active": False})
    assert (changed.name, changed.phone_number, changed.is_active) == ("New", None, False)
    assert (changed.slug, changed.access_token) == (account.slug, account.access_token)
    assert changed.updated_at > account.updated_at
    assert await store.get_account(account.id) == changed


async def test_an_update_is_refused(store: SqlStore, new_account: NewAccount) -> None:
    account, other = await new_account(), await new_account()
    with pytest.raises(NotFound) as missing:
        await store.update_account(NOBODY, {"name": "x"})
    assert missing.value.code == "account_not_found"
    with pytest.raises(Conflict) as taken:
        await store.update_account(account.id, {"slug": other.slug})
    assert taken.value.code == "slug_taken"
    with pytest.raises(Conflict) as taken:
        await store.update_account(account.id, {"phone_number_id": other.phone_number_id})
    assert taken.value.code == "phone_number_id_taken"
    with pytest.raises(InvalidInput) as unknown:
        await store.update_account(account.id, {"id": NOBODY})
    assert unknown.value.field == "id"
    assert await store.get_account(account.id) == account


async def test_a_member_sees_their_accounts_by_name(store: SqlStore, new_account: NewAccount) -> None:
    user = unique("user")
    b, a = await new_account(name="b", owner_id=user), await new_account(name="a")
    stranger = await new_account()
    await store.add_member(a.id, user, Role.VIEWER)
    assert await store.list_accounts(user_id=user) == (a, b)
    assert await store.list_accounts(user_id=unique("nobody")) == ()
    every = await store.list_accounts(user_id=None)
    assert all(account in every for account in (a, b, stranger))


async def test_roles(store: SqlStore, new_account: NewAccount) -> None:
    account = await new_account(owner_id="ada")
    assert await store.get_role(account.id, "ada") is Role.OWNER
    assert await store.get_role(account.id, "bob") is None
    await store.add_member(account.id, "bob", Role.VIEWER)
    await store.add_member(account.id, "bob", Role.AGENT)
    assert await store.get_role(account.id, "bob") is Role.AGENT
    with pytest.raises(NotFound):
        await store.add_member(NOBODY, "bob", Role.AGENT)


async def test_members_are_listed_by_role_and_age(store: SqlStore, new_account: NewAccount) -> None:
    account = await new_account()
    for user, role in (("v", Role.VIEWER), ("b", Role.OWNER), ("a", Role.OWNER), ("g", Role.AGENT)):
        made = await store.add_member(account.id, user, role)
        assert (made.user_id, made.role) == (user, role)
        assert await store.get_member(account.id, user) == made
    assert [m.user_id for m in await store.list_members(account.id)] == ["b", "a", "g", "v"]
    assert await store.list_members(NOBODY) == ()
    assert await store.get_member(account.id, "nobody") is None
    assert await store.get_member("no uuid", "a") is None


async def test_a_removed_member_has_no_role(store: SqlStore, new_account: NewAccount) -> None:
    account = await new_account(owner_id="ada")
    for _ in range(2):  # a repetition after a lost answer changes nothing
        await store.remove_member(account.id, "ada")
    assert await store.get_role(account.id, "ada") is None
    await store.remove_member(NOBODY, "ada")


async def test_the_last_owner_is_kept_if_asked_for(store: SqlStore, new_account: NewAccount) -> None:
    account = await new_account(owner_id="ada")
    await store.add_member(account.id, "bob", Role.AGENT, keep_owner=True)
    for attempt in (
        store.remove_member(account.id, "ada", keep_owner=True),
        store.add_member(account.id, "ada", Role.AGENT, keep_owner=True),
    ):
        with pytest.raises(Conflict) as caught:
            await attempt
        assert caught.value.code == "last_owner"
    await store.add_member(account.id, "ada", Role.OWNER, keep_owner=True)
    await store.add_member(account.id, "ada", Role.VIEWER)
    assert await store.get_role(account.id, "ada") is Role.VIEWER


async def test_two_owners_who_remove_each_other_leave_one(store: SqlStore, new_account: NewAccount) -> None:
    for _ in range(5):
        account = await new_account(owner_id="ada")
        await store.add_member(account.id, "bob", Role.OWNER)
        results = await asyncio.gather(
            store.remove_member(account.id, "ada", keep_owner=True),
            store.add_member(account.id, "bob", Role.AGENT, keep_owner=True),
            return_exceptions=True,
        )
        assert sum(isinstance(result, Conflict) for result in results) == 1
        assert [m.role for m in await store.list_members(account.id)].count(Role.OWNER) == 1


async def test_a_fresh_account_has_the_default_profile(store: SqlStore, new_account: NewAccount) -> None:
    account = await new_account()
    profile = await store.get_profile(account.id)
    assert profile == BotProfile(account_id=account.id, updated_at=profile.updated_at if profile else None)


async def test_a_profile_keeps_free_form_parts_as_they_are(store: SqlStore, new_account: NewAccount) -> None:
    account = await new_account()
    changes = {
        "business_name": "Le Fournil",
        "custom_fields": {"parking": None, "tags": ["a", {"b": [1, 2.5, None]}], "quote": 'say "hé" \\u0000'},
        "template_config": {"faq": [{"q": "?", "a": "!"}]},
        "temperature": 0.4,
        "max_output_tokens": 300,
        "model": "gemini-x",
        "resend_ambiguous": True,
        "fallback_text": "Later",
        "interim_text": "",
        "greeting_text": "Bonjour !",
        "auto_reply_limit": 5,
        "handover_keywords": ("agent", "une personne"),
        "on_handover": OnHandover.CONTINUE,
        "handover_pause_minutes": 5,
        "handover_notify_number": "33600000099",
        "business_hours": {"time_zone": "Europe/Paris", "weekly": {"monday": [["09:00", "12:00"]]}},
        "outside_hours_text": "Tomorrow",
        "stop_words": ("genug", "basta"),
        "media_kinds": ("audio", "image"),
        "media_max_bytes": 5_000_000,
        "media_max_seconds": 90,
        "media_max_pages": 20,
    }
    changed = await store.update_profile(account.id, changes)
    assert {name: getattr(changed, name) for name in changes} == changes
    assert await store.get_profile(account.id) == changed

    again = await store.update_profile(account.id, {"temperature": None, "fallback_text": None, "hours": "9-17"})
    assert again.interim_text == "", "nothing is sent, which is not the same as what the application says"
    assert again.temperature is None
    assert again.fallback_text == BotProfile(account.id).fallback_text  # None: as the application says
    assert (again.hours, again.business_name, again.model) == ("9-17", "Le Fournil", "gemini-x")


async def test_a_profile_update_is_refused(store: SqlStore, new_account: NewAccount) -> None:
    account = await new_account()
    with pytest.raises(NotFound) as missing:
        await store.update_profile(NOBODY, {"hours": "9-17"})
    assert missing.value.code == "account_not_found"
    with pytest.raises(InvalidInput) as unknown:
        await store.update_profile(account.id, {"account_id": NOBODY})
    assert unknown.value.field == "account_id"


async def test_text_that_postgresql_cannot_hold_is_mended(store: SqlStore, new_account: NewAccount) -> None:
    account = await new_account()
    profile = await store.update_profile(account.id, {"description": "a\x00b", "custom_fields": {"k\x00": "\\\x00"}})
    assert profile.description == "a\ufffdb"
    assert profile.custom_fields == {"k\ufffd": "\\\ufffd"}


async def test_ping_and_schema_version(store: SqlStore) -> None:
    assert await store.ping() is True
    assert await store.schema_version() == read_migrations()[-1].version
    assert await store.applied_migrations() == tuple(migration.id for migration in read_migrations())


async def test_a_profile_exists_for_an_account_made_by_hand(store: SqlStore, sql: asyncpg.Connection) -> None:
    name = unique("by-hand")
    account_id = await sql.fetchval(
        "insert into whatsapp_accounts (name, slug, phone_number_id, access_token, verify_token)"
        " values ($1, $1, $1, 'c', 'v') returning id::text",
        name,
    )
    assert await store.get_profile(account_id) is not None


async def test_a_token_is_replaced_only_if_it_is_still_the_one_that_was_read(
    store: SqlStore, new_account: NewAccount
) -> None:
    account = await new_account(access_token="first")
    assert await store.replace_access_token(account.id, expected="first", access_token="second")
    assert not await store.replace_access_token(account.id, expected="first", access_token="third")
    found = await store.get_account(account.id)
    assert found is not None
    assert found.access_token == "second"
    assert await store.replace_access_token(account.id, expected="first", access_token="second"), "a repetition"
    for unknown in (NOBODY, "not a uuid"):
        with pytest.raises(NotFound):
            await store.replace_access_token(unknown, expected="a", access_token="b")


async def test_of_two_who_replace_a_token_side_by_side_one_succeeds(store: SqlStore, new_account: NewAccount) -> None:
    account = await new_account(access_token="first")
    done = await asyncio.gather(
        *(store.replace_access_token(account.id, expected="first", access_token=f"{n}") for n in range(5))
    )
    assert sorted(done) == [False] * 4 + [True]


async def test_every_table_of_ours_guards_its_rows(store: SqlStore) -> None:
    assert holes(expected_policies(), await store.row_security()) == []


async def test_the_database_says_which_one_it_is_by_either_way(store: SqlStore, contract_url: str) -> None:
    directly = PostgresStore(contract_url)
    try:
        identity = await directly.database_identity()
    finally:
        await directly.aclose()
    assert re.fullmatch(r"[0-9a-f-]{36}@\d+/\d+", identity)
    assert await store.database_identity() == identity
