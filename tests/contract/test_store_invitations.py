"""Invitations in the store: good once, for their time, and gone with the role of the one who wrote them."""

from __future__ import annotations

import asyncio
import json
import uuid

import asyncpg
import pytest

from app.domain.errors import Conflict, NotFound
from app.domain.invitations import Invitation
from app.domain.models import Role
from app.domain.opaque_tokens import new_token
from tests.support.store_kit import Scene, uncommitted, until_all_wait


async def invite(
    scene: Scene, *, role: Role = Role.AGENT, by: str = "ada", by_owner: bool = False, most: int = 50
) -> Invitation:
    return await scene.store.create_invitation(
        scene.account.id, role=role, digest=new_token("i_").digest, created_by=by, by_owner=by_owner,
        valid_seconds=3600, most=most,
    )  # fmt: skip


async def code_of(scene: Scene, invitation: Invitation, user: str) -> str:
    with pytest.raises(Conflict) as refused:
        await scene.store.accept_invitation(invitation.digest, user)
    return refused.value.code


async def test_an_invitation_makes_one_person_a_member(scene: Scene) -> None:
    invitation = await invite(scene)
    member = await scene.store.accept_invitation(invitation.digest, "bob")
    assert (member.account_id, member.user_id, member.role) == (scene.account.id, "bob", Role.AGENT)
    assert await scene.store.accept_invitation(invitation.digest, "bob") == member  # a repetition
    assert await code_of(scene, invitation, "eve") == "invitation_used"
    (listed,) = await scene.store.list_invitations(scene.account.id)
    assert (listed.accepted_by, listed.accepted_at is not None) == ("bob", True)
    assert await scene.store.get_role(scene.account.id, "eve") is None


async def test_of_two_people_at_the_same_moment_one_gets_in(scene: Scene) -> None:
    invitation = await invite(scene)
    people = ["bob", "eve", "kim", "lou"]
    done = await asyncio.gather(
        *(scene.store.accept_invitation(invitation.digest, user) for user in people), return_exceptions=True
    )
    assert sorted(getattr(each, "code", "in") for each in done) == ["in", *["invitation_used"] * 3]
    assert len(await scene.store.list_members(scene.account.id)) == 1


async def test_a_higher_role_stays_and_a_lower_one_rises(scene: Scene) -> None:
    await scene.store.add_member(scene.account.id, "ada", Role.OWNER)
    await scene.store.add_member(scene.account.id, "bob", Role.VIEWER)
    for user, role in (("ada", Role.OWNER), ("bob", Role.AGENT)):
        assert (await scene.store.accept_invitation((await invite(scene)).digest, user)).role is role


async def test_it_expires_and_what_expired_is_not_listed_and_goes(scene: Scene, sql: asyncpg.Connection) -> None:
    invitation = await invite(scene)
    await sql.execute("update invitations set expires_at = now() - interval '1 s' where id = $1::uuid", invitation.id)
    assert await code_of(scene, invitation, "bob") == "invitation_expired"
    assert await scene.store.list_invitations(scene.account.id) == ()
    await invite(scene)
    assert await sql.fetchval("select count(*) from invitations where id = $1::uuid", invitation.id) == 0


async def test_a_withdrawn_one_and_a_made_up_one_are_unknown(scene: Scene, new_account) -> None:
    invitation, other = await invite(scene), await new_account()
    await scene.store.delete_invitation(other.id, invitation.id)  # another account's cannot be withdrawn
    assert await scene.store.get_invitation(scene.account.id, invitation.id) == invitation
    await scene.store.delete_invitation(scene.account.id, invitation.id)
    for digest in (invitation.digest, "0" * 64):
        with pytest.raises(NotFound):
            await scene.store.accept_invitation(digest, "bob")
    with pytest.raises(NotFound):
        await scene.store.create_invitation(
            "no-such", role=Role.AGENT, digest="1" * 64, created_by="ada", by_owner=False, valid_seconds=1, most=1
        )


async def test_open_ones_of_an_account_are_bounded(scene: Scene) -> None:
    accepted = await invite(scene, most=1)
    await scene.store.accept_invitation(accepted.digest, "bob")
    await invite(scene, most=1)
    with pytest.raises(Conflict) as refused:
        await invite(scene, most=1)
    assert refused.value.code == "too_many_invitations"


@pytest.mark.parametrize("leaves", [True, False])
async def test_an_owner_who_is_one_no_more_does_not_come_back_by_an_own_invitation(scene: Scene, leaves: bool) -> None:
    for user in ("ada", "bob"):
        await scene.store.add_member(scene.account.id, user, Role.OWNER)
    mine, others = await invite(scene, by="ada"), await invite(scene, by="bob")
    if leaves:
        await scene.store.remove_member(scene.account.id, "ada")
    else:
        await scene.store.add_member(scene.account.id, "ada", Role.VIEWER)
    with pytest.raises(NotFound):
        await scene.store.accept_invitation(mine.digest, "ada")
    assert await scene.store.list_invitations(scene.account.id) == (others,)


async def test_what_a_revoked_key_left_open_goes_with_it(scene: Scene) -> None:
    key = await scene.store.create_api_key(
        scene.account.id, name="n", role=Role.OWNER, digest="2" * 64, hint="2222", created_by="ada", by_owner=False,
        most=5,
    )  # fmt: skip
    await invite(scene, by=f"key:{key.id}")
    await scene.store.delete_api_key(scene.account.id, key.id)
    assert await scene.store.list_invitations(scene.account.id) == ()


@pytest.mark.parametrize("leaving", ["removed", "made a viewer", "key revoked"])
async def test_who_stops_being_an_owner_at_that_moment_leaves_no_invitation_behind(
    scene: Scene, sql: asyncpg.Connection, leaving: str
) -> None:
    account, by = scene.account.id, "ada"
    await scene.store.add_member(account, "ada", Role.OWNER)
    end = "delete from account_members where account_id = $1::uuid and user_id = 'ada'"
    if leaving == "made a viewer":
        end = "update account_members set role = 'viewer' where account_id = $1::uuid and user_id = 'ada'"
    elif leaving == "key revoked":
        digest = new_token("k_").digest
        key = await scene.store.create_api_key(
            account, name="n", role=Role.OWNER, digest=digest, hint="2222", created_by="ada", by_owner=True, most=5
        )
        by, end = f"key:{key.id}", "delete from api_keys where account_id = $1::uuid"

    async with uncommitted(sql, end, account):
        late = asyncio.create_task(invite(scene, by=by, by_owner=True))
        await until_all_wait(sql, late)
    with pytest.raises(NotFound):
        await late
    assert await scene.store.list_invitations(account) == ()


async def test_an_invitation_that_is_being_made_goes_with_the_owner_who_is_removed_meanwhile(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    await scene.store.add_member(scene.account.id, "ada", Role.OWNER)
    p = {
        "id": str(uuid.uuid4()), "account_id": scene.account.id, "role": "owner", "digest": new_token("i_").digest,
        "created_by": "ada", "by_owner": True, "valid_seconds": 3600, "most": 5,
    }  # fmt: skip
    async with uncommitted(sql, "select chorus_create_invitation($1::jsonb)", json.dumps(p)):
        removed = asyncio.create_task(scene.store.remove_member(scene.account.id, "ada"))
        await until_all_wait(sql, removed)
    await removed
    assert await scene.store.list_invitations(scene.account.id) == ()


async def test_a_member_who_was_removed_does_not_come_back_by_a_used_invitation(scene: Scene) -> None:
    invitation = await invite(scene)
    await scene.store.accept_invitation(invitation.digest, "bob")
    await scene.store.remove_member(scene.account.id, "bob")
    assert await code_of(scene, invitation, "bob") == "invitation_used"
    assert await scene.store.get_role(scene.account.id, "bob") is None
