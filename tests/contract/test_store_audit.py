"""The audit trail in the store: an entry with every change, in its transaction, without a secret."""

from __future__ import annotations

import asyncpg
import orjson
import pytest

from app.adapters.sql_store import SqlStore
from app.domain.audit import Actor, ActorKind, AuditEntry, acting_as
from app.domain.errors import InvalidInput
from app.domain.models import BlockReason, Role
from app.domain.opaque_tokens import new_token
from tests.support.store_kit import Scene

ADA = Actor(ActorKind.USER, "ada", "203.0.113.7", "req-1")


async def trail(scene: Scene) -> list[AuditEntry]:
    """The oldest first."""
    page = await scene.store.list_audit(scene.account.id, limit=200, cursor=None)
    return list(reversed(page.items))


async def actions(scene: Scene) -> list[tuple[str, str]]:
    return [(entry.action, entry.subject) for entry in await trail(scene)]


async def test_every_kind_of_change_is_on_record_with_who_and_from_where(scene: Scene) -> None:
    store, account = scene.store, scene.account.id
    digest = new_token("x_").digest
    with acting_as(ADA):
        await store.update_account(account, {"name": "Levain", "is_active": False})
        await store.update_profile(account, {"hours": "9-17"})
        await store.add_member(account, "bob", Role.VIEWER)
        await store.add_member(account, "bob", Role.AGENT)
        await store.remove_member(account, "bob")
        key = await store.create_api_key(
            account,
            name="crm",
            role=Role.VIEWER,
            digest=digest,
            hint="abcd",
            created_by="ada",
            by_owner=False,
            most=5,
        )
        await store.delete_api_key(account, key.id)
        invitation = await store.create_invitation(
            account,
            role=Role.AGENT,
            digest=digest,
            created_by="ada",
            by_owner=False,
            valid_seconds=60,
            most=5,
        )
        await store.accept_invitation(digest, "eve")
        await store.delete_invitation(account, invitation.id)
        endpoint = await store.create_endpoint(
            account, url="https://receiver.example/", events=["message.sent"], secret="cipher", most=5
        )
        await store.update_endpoint(account, endpoint.id, {"enabled": False})
        await store.delete_endpoint(account, endpoint.id)
    assert await actions(scene) == [
        ("account.created", account), ("account.changed", account), ("profile.changed", account),
        ("member.created", "bob"), ("member.changed", "bob"), ("member.deleted", "bob"),
        ("api_key.created", key.id), ("api_key.deleted", key.id),
        ("invitation.created", invitation.id), ("invitation.changed", invitation.id), ("member.created", "eve"),
        ("invitation.deleted", invitation.id),
        ("webhook.created", endpoint.id), ("webhook.changed", endpoint.id), ("webhook.deleted", endpoint.id),
    ]  # fmt: skip
    created, *by_ada = await trail(scene)
    assert created.actor_kind == ActorKind.SYSTEM  # made by the fixture, for which no person asked
    assert {(e.actor_kind, e.actor_id, e.address, e.request_id) for e in by_ada} == {
        ("user", "ada", "203.0.113.7", "req-1")
    }
    assert by_ada[0].changes == {
        "name": {"old": scene.account.name, "new": "Levain"}, "is_active": {"old": True, "new": False},
    }  # fmt: skip
    assert by_ada[1].changes == {"hours": {"old": None, "new": "9-17"}}
    assert by_ada[3].changes == {"role": {"old": "viewer", "new": "agent"}}
    assert by_ada[5].changes["role"] == {"old": None, "new": "viewer"}


async def test_no_secret_is_on_record_neither_old_nor_new(scene: Scene, sql: asyncpg.Connection) -> None:
    store, account = scene.store, scene.account.id
    key = new_token("chorus_")
    with acting_as(ADA):
        await store.update_account(account, {"access_token": "new-cipher", "verify_token": "new-verify"})
        await store.create_api_key(
            account,
            name="crm",
            role=Role.VIEWER,
            digest=key.digest,
            hint=key.hint,
            created_by="ada",
            by_owner=False,
            most=5,
        )
        await store.create_endpoint(
            account, url="https://receiver.example/", events=["message.sent"], secret="cipher-of-it", most=5
        )
    changed = (await trail(scene))[1]
    assert changed.changes == {"access_token": {"changed": True}, "verify_token": {"changed": True}}
    rows = await sql.fetch("select to_jsonb(a)::text as row from audit_entries a where account_id = $1::uuid", account)
    written = "".join(row["row"] for row in rows)
    for secret in (scene.account.access_token, "new-cipher", "new-verify", key.digest, key.secret, "cipher-of-it"):
        assert f'"{secret}"' not in written


async def test_what_changes_nothing_and_what_chorus_notes_in_passing_is_not_on_record(scene: Scene) -> None:
    store, account = scene.store, scene.account
    with acting_as(ADA):
        await store.update_account(account.id, {"name": account.name})
        await store.update_profile(account.id, {"hours": None})
    for _ in range(3):
        await store.account_refused(
            account.id, access_token=account.access_token, reason=BlockReason.TOKEN_INVALID, confirm=3
        )
    await store.account_accepted(account.id, access_token=account.access_token)
    assert await actions(scene) == [("account.created", account.id)]


async def test_a_change_that_is_rolled_back_leaves_no_entry(scene: Scene, sql: asyncpg.Connection) -> None:
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute("update whatsapp_accounts set name = 'x' where id = $1::uuid", scene.account.id)
    assert await sql.fetchval("select count(*) from audit_entries where account_id = $1::uuid", scene.account.id) == 2
    await transaction.rollback()
    assert len(await trail(scene)) == 1


async def test_sql_by_hand_is_on_record_under_the_databases_user(scene: Scene, sql: asyncpg.Connection) -> None:
    await sql.execute("update bot_profiles set hours = 'never' where account_id = $1::uuid", scene.account.id)
    entry = (await trail(scene))[-1]
    assert (entry.action, entry.actor_kind) == ("profile.changed", "system")
    assert entry.actor_id == await sql.fetchval("select session_user::text")
    assert (entry.address, entry.request_id) == (None, None)


async def test_one_calls_actor_is_not_the_next_ones(scene: Scene) -> None:
    with acting_as(ADA):
        await scene.store.update_profile(scene.account.id, {"hours": "1"})
    await scene.store.update_profile(scene.account.id, {"hours": "2"})
    assert [entry.actor_kind for entry in (await trail(scene))[1:]] == ["user", "system"]


async def test_a_long_value_is_kept_by_its_beginning(scene: Scene) -> None:
    with acting_as(ADA):
        await scene.store.update_profile(scene.account.id, {"knowledge_base": "é" * 50_000})
        await scene.store.update_profile(scene.account.id, {"custom_fields": {"a": ["b" * 3000]}})
    _, long, form = await trail(scene)
    assert long.changes["knowledge_base"]["new"] == "é" * 1000 + "…"
    assert len(orjson.dumps(dict(form.changes))) < 2500


async def test_pages_follow_each_other_and_end(scene: Scene, new_account) -> None:
    for hours in ("1", "2", "3"):
        await scene.store.update_profile(scene.account.id, {"hours": hours})
    await new_account()
    first = await scene.store.list_audit(scene.account.id, limit=3, cursor=None)
    second = await scene.store.list_audit(scene.account.id, limit=3, cursor=first.next_cursor)
    assert [entry.changes["hours"]["new"] for entry in first.items] == ["3", "2", "1"]
    assert [entry.action for entry in second.items] == ["account.created"]
    assert second.next_cursor is None
    everything = await scene.store.list_audit(None, limit=1, cursor=None)
    assert everything.items[0].account_id != scene.account.id
    with pytest.raises(InvalidInput):
        await scene.store.list_audit(scene.account.id, limit=3, cursor="x")


async def test_what_the_store_does_not_keep_is_noted_with_its_account(scene: Scene) -> None:
    changes = {"state": {"old": "closed", "new": "open, forced"}}
    with acting_as(ADA):
        await scene.store.note_change(
            "breaker.forced", "whatsapp_api:1", changes, phone_number_id=scene.account.phone_number_id
        )
        await scene.store.note_change("breaker.forced", "gemini_api", changes)
    (noted,) = (await trail(scene))[1:]
    assert (noted.action, noted.subject, noted.changes, noted.actor_id) == (
        "breaker.forced", "whatsapp_api:1", changes, "ada",
    )  # fmt: skip
    whole = (await scene.store.list_audit(None, limit=1, cursor=None)).items[0]
    assert (whole.subject, whole.account_id) == ("gemini_api", None)


async def test_old_entries_go_and_the_trail_outlives_its_account(
    store: SqlStore, scene: Scene, sql: asyncpg.Connection
) -> None:
    await sql.execute("delete from whatsapp_accounts where id = $1::uuid", scene.account.id)
    assert [entry.action for entry in await trail(scene)] == ["account.created", "account.deleted"]
    await sql.execute("update audit_entries set at = now() - interval '2 days'")
    total = await sql.fetchval("select count(*) from audit_entries")
    assert await store.forget_audit(keep_seconds=3 * 86400, limit=1000) == 0
    assert await store.forget_audit(keep_seconds=86400, limit=1) == 1
    assert await store.forget_audit(keep_seconds=86400, limit=10_000) == total - 1
    assert await trail(scene) == []
