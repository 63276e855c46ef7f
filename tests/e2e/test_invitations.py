"""Invitations over HTTP: an owner writes one, the person with the link becomes a member."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.replica import Replica, one_replica, token_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(module_stores: tuple[str, str]) -> AsyncIterator[Replica]:
    """One for all tests of the module: each has an account of its own."""
    async with one_replica(*module_stores) as api:
        yield api


async def invite(api: Replica, account: dict[str, Any], role: str = "agent") -> dict[str, Any]:
    path = f"/accounts/{account['id']}/invitations"
    return dict(await api("POST", path, user="ada", status=201, json={"role": role}))


async def test_the_person_with_the_link_becomes_a_member_once(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    made = await invite(api, account)
    assert made["link"] == f"{api.url}/console#invitation={made['token']}"
    body = {"token": made["token"]}
    joined = await api("POST", "/invitations/accept", user="bob", json=body)
    assert (joined["account_id"], joined["user_id"], joined["role"]) == (account["id"], "bob", "agent")
    assert await api("POST", "/invitations/accept", user="bob", json=body) == joined
    assert [each["id"] for each in await api("GET", "/accounts", user="bob")] == [account["id"]]
    error = await api.refused("POST", "/invitations/accept", user="eve", status=409, json=body)
    assert error["code"] == "invitation_used"
    listed = await api("GET", f"/accounts/{account['id']}/invitations", user="ada")
    assert [(each["id"], each["accepted_by"]) for each in listed] == [(made["id"], "bob")]
    assert not {"token", "link", "digest"} & set(listed[0])


async def test_the_link_leads_to_where_the_balancer_speaks_tls(api: Replica) -> None:
    """A page that comes without TLS can be made another one on its way, which reads the token."""
    account = await api.new_account(owner="ada")
    path = f"/accounts/{account['id']}/invitations"
    headers = {"X-Forwarded-Proto": "https", "Host": "chorus.example"}
    made = await api("POST", path, user="ada", status=201, json={"role": "viewer"}, headers=headers)
    assert made["link"] == f"https://chorus.example/console#invitation={made['token']}"


async def test_without_a_balancer_the_address_on_record_is_that_of_the_connection(api: Replica) -> None:
    """Also where it comes from this machine, from which uvicorn by itself believes everything."""
    account = await api.new_account(owner="ada")
    path = f"/accounts/{account['id']}/invitations"
    await api("POST", path, user="ada", status=201, json={"role": "agent"}, headers={"X-Forwarded-For": "203.0.113.7"})
    entry = (await api("GET", f"/accounts/{account['id']}/audit?limit=1", user="ada"))["items"][0]
    assert (entry["action"], entry["address"]) == ("invitation.created", "127.0.0.1")


async def test_a_withdrawn_or_made_up_invitation_is_unknown(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    made = await invite(api, account)
    path = f"/accounts/{account['id']}/invitations/{made['id']}"
    await api("DELETE", path, user="ada", status=204)
    assert (await api.refused("DELETE", path, user="ada", status=404))["code"] == "invitation_not_found"
    for token in (made["token"], "invite_" + "A" * 43, "x"):
        error = await api.refused("POST", "/invitations/accept", user="bob", status=404, json={"token": token})
        assert error["code"] == "invitation_not_found"


async def test_only_a_person_who_can_sign_in_again_accepts(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    body = {"token": (await invite(api, account, "owner"))["token"]}
    key = await api("POST", f"/accounts/{account['id']}/api-keys", json={"name": "n", "role": "viewer"}, status=201)
    ghost = token_of("ghost", is_anonymous=True)
    for who in (
        {},
        {"headers": {"Authorization": f"Bearer {key['key']}"}},
        {"headers": {"Authorization": f"Bearer {ghost}"}},
    ):
        await api.refused("POST", "/invitations/accept", status=403, json=body, **who)
    assert await api("GET", f"/accounts/{account['id']}/members/ada")
    assert len(await api("GET", f"/accounts/{account['id']}/members")) == 1
