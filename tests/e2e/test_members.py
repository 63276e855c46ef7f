"""Who may act for an account: members are listed, given roles and removed, and the last owner stays."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.replica import Replica, one_replica

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(module_stores: tuple[str, str]) -> AsyncIterator[Replica]:
    """One for all tests of the module: each has an account of its own."""
    async with one_replica(*module_stores) as api:
        yield api


async def test_an_owner_manages_members_and_every_member_reads_the_list(api: Replica) -> None:
    path = f"/accounts/{(await api.new_account(owner='ada'))['id']}/members"
    made = await api("PUT", f"{path}/bob", user="ada", json={"role": "viewer"})
    assert (made["user_id"], made["role"]) == ("bob", "viewer")
    assert [(m["user_id"], m["role"]) for m in await api("GET", path, user="bob")] == [
        ("ada", "owner"), ("bob", "viewer"),
    ]  # fmt: skip
    assert await api("GET", f"{path}/bob", user="bob") == made
    changed = await api("PUT", f"{path}/bob", user="ada", json={"role": "agent"})
    assert (changed["role"], changed["created_at"]) == ("agent", made["created_at"])
    await api("DELETE", f"{path}/bob", user="ada", status=204)
    assert [m["user_id"] for m in await api("GET", path, user="ada")] == ["ada"]


async def test_a_removed_member_loses_access_at_once(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    members, profile = f"/accounts/{account['id']}/members", f"/bot/profile?account_id={account['id']}"
    await api("PUT", f"{members}/bob", user="ada", json={"role": "agent"})
    await api("GET", profile, user="bob")
    await api("DELETE", f"{members}/bob", user="ada", status=204)
    for path in (profile, members, f"/conversations?account_id={account['id']}"):
        assert (await api.refused("GET", path, user="bob", status=404))["code"] == "account_not_found"


@pytest.mark.parametrize("role", ["agent", "viewer"])
async def test_other_members_change_nobody_but_may_leave(api: Replica, role: str) -> None:
    path = f"/accounts/{(await api.new_account(owner='ada'))['id']}/members"
    await api("PUT", f"{path}/bob", user="ada", json={"role": role})
    for method, who, more in (
        ("PUT", "bob", {"json": {"role": "owner"}}),
        ("PUT", "eve", {"json": {"role": "viewer"}}), ("DELETE", "ada", {}),
    ):  # fmt: skip
        assert (await api.refused(method, f"{path}/{who}", user="bob", status=403, **more))["code"] == "forbidden"
    await api("DELETE", f"{path}/bob", user="bob", status=204)
    await api.refused("GET", path, user="bob", status=404)


async def test_to_a_stranger_the_account_does_not_exist(api: Replica) -> None:
    path = f"/accounts/{(await api.new_account(owner='ada'))['id']}/members"
    for method, target, more in (
        ("GET", path, {}), ("GET", f"{path}/ada", {}), ("PUT", f"{path}/eve", {"json": {"role": "owner"}}),
        ("DELETE", f"{path}/ada", {}), ("DELETE", f"{path}/eve", {}),
    ):  # fmt: skip
        assert (await api.refused(method, target, user="eve", status=404, **more))["code"] == "account_not_found"


async def test_the_last_owner_is_neither_removed_nor_demoted_except_by_the_operator(api: Replica) -> None:
    path = f"/accounts/{(await api.new_account(owner='ada'))['id']}/members"
    await api("PUT", f"{path}/bob", user="ada", json={"role": "agent"})
    for attempt in (
        api.refused("DELETE", f"{path}/ada", user="ada", status=409),
        api.refused("PUT", f"{path}/ada", user="ada", status=409, json={"role": "agent"}),
    ):
        assert (await attempt)["code"] == "last_owner"
    await api("PUT", f"{path}/ada", user="ada", json={"role": "owner"})  # nothing changes: no harm
    await api("PUT", f"{path}/bob", user="ada", json={"role": "owner"})
    await api("DELETE", f"{path}/ada", user="ada", status=204)
    await api("DELETE", f"{path}/bob", status=204)
    assert await api("GET", path) == []


async def test_who_is_no_member_is_not_found(api: Replica) -> None:
    path = f"/accounts/{(await api.new_account(owner='ada'))['id']}/members"
    for method in ("GET", "DELETE"):
        assert (await api.refused(method, f"{path}/bob", user="ada", status=404))["code"] == "member_not_found"
    await api.refused("PUT", "/accounts/no-such/members/bob", status=404, json={"role": "owner"})
    assert (await api.refused("PUT", f"{path}/bob", status=422, json={"role": "boss"}))["field"] == "role"
    assert (await api.refused("PUT", f"{path}/%00", status=422, json={"role": "owner"}))["field"] == "user_id"
