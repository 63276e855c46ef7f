"""API keys: programs act for one account with a role, until the key is revoked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from app.adapters.postgres_store import PostgresStore
from app.domain.api_keys import MAX_API_KEYS, ApiKey
from tests.support.patience import Within
from tests.support.replica import Replica, one_replica
from tests.support.world import World

EVERYWHERE_SECONDS = 0.5


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(module_stores: tuple[str, str]) -> AsyncIterator[Replica]:
    """One for all tests of the module: each has an account of its own."""
    async with one_replica(*module_stores) as api:
        yield api


async def new_key(api: Replica, account: dict[str, Any], role: str, name: str = "our CRM") -> dict[str, Any]:
    body = {"name": name, "role": role}
    made = await api("POST", f"/accounts/{account['id']}/api-keys", user="ada", status=201, json=body)
    return dict(made)


def bearer(key: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {key}"}}


@pytest.mark.asyncio(loop_scope="module")
async def test_a_key_is_shown_once_and_listed_without_itself(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    made = await new_key(api, account, "agent")
    assert made["key"].startswith("chorus_")
    assert made["key"].endswith(made["hint"])
    assert (made["name"], made["role"], made["created_by"], made["last_used_at"]) == ("our CRM", "agent", "ada", None)
    listed = await api("GET", f"/accounts/{account['id']}/api-keys", user="ada")
    assert listed == [{name: value for name, value in made.items() if name != "key"}]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_key_acts_with_its_role_in_its_account_alone(api: Replica) -> None:
    account, other = await api.new_account(owner="ada"), await api.new_account(owner="ada")
    viewer_key, owner_key = [bearer((await new_key(api, account, role))["key"]) for role in ("viewer", "owner")]
    assert [each["id"] for each in await api("GET", "/accounts", **viewer_key)] == [account["id"]]
    profile = f"/bot/profile?account_id={account['id']}"
    await api("GET", profile, **viewer_key)
    assert (await api.refused("PUT", profile, status=403, json={"hours": "x"}, **viewer_key))["code"] == "forbidden"
    assert (await api("PUT", profile, json={"hours": "9-17"}, **owner_key))["hours"] == "9-17"
    await api("PUT", f"/accounts/{account['id']}/members/bob", json={"role": "viewer"}, **owner_key)
    error = await api.refused("GET", f"/bot/profile?account_id={other['id']}", status=404, **owner_key)
    assert error["code"] == "account_not_found"
    await api.refused("GET", "/admin/fleet", status=403, **owner_key)
    body = {"name": "n", "slug": "n", "phone_number_id": "1", "access_token": "12345678", "verify_token": "12345678"}
    assert "API key" in (await api.refused("POST", "/accounts", status=403, json=body, **owner_key))["message"]


@pytest.mark.asyncio(loop_scope="module")
async def test_only_owners_see_make_and_revoke_keys(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    path = f"/accounts/{account['id']}/api-keys"
    made = await new_key(api, account, "agent")
    await api("PUT", f"/accounts/{account['id']}/members/bob", user="ada", json={"role": "agent"})
    for who, status in (({"user": "bob"}, 403), (bearer(made["key"]), 403), ({"user": "eve"}, 404)):
        await api.refused("GET", path, status=status, **who)
        await api.refused("POST", path, status=status, json={"name": "x", "role": "owner"}, **who)
        await api.refused("DELETE", f"{path}/{made['id']}", status=status, **who)
    assert len(await api("GET", path, user="ada")) == 1


@pytest.mark.asyncio(loop_scope="module")
async def test_a_revoked_key_and_a_made_up_one_open_nothing(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    path = f"/accounts/{account['id']}/api-keys"
    made = await new_key(api, account, "viewer")
    await api("GET", "/accounts", **bearer(made["key"]))
    await api("DELETE", f"{path}/{made['id']}", user="ada", status=204)
    for key in (made["key"], "chorus_" + "A" * 43, "chorus_short", made["key"] + "x", made["key"].upper()):
        assert (await api.refused("GET", "/accounts", status=401, **bearer(key)))["code"] == "unauthenticated"
    assert (await api.refused("DELETE", f"{path}/{made['id']}", user="ada", status=404))["code"] == "api_key_not_found"
    assert (await api.refused("DELETE", f"{path}/no-such", user="ada", status=404))["code"] == "api_key_not_found"


@pytest.mark.asyncio(loop_scope="module")
async def test_guessing_asks_the_database_once_for_a_key(api: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    look = PostgresStore.get_api_key_by_digest

    async def noted(store: PostgresStore, digest: str) -> ApiKey | None:
        asked.append(digest)
        return await look(store, digest)

    monkeypatch.setattr(PostgresStore, "get_api_key_by_digest", noted)
    for guess in "BCDEF":  # a Redis that is slow for a moment is not waited for, and the database asked instead
        asked.clear()
        for _ in range(20):
            await api.refused("GET", "/accounts", status=401, **bearer("chorus_" + guess * 43))
        if len(asked) == 1:
            break
    assert len(asked) == 1


@pytest.mark.asyncio(loop_scope="module")
async def test_keys_are_bounded_and_their_fields_checked(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    path = f"/accounts/{account['id']}/api-keys"
    for body, field in (({"name": " ", "role": "viewer"}, "name"), ({"name": "x", "role": "boss"}, "role")):
        assert (await api.refused("POST", path, user="ada", status=422, json=body))["field"] == field
    await asyncio.gather(*(new_key(api, account, "viewer") for _ in range(MAX_API_KEYS)))
    error = await api.refused("POST", path, user="ada", status=409, json={"name": "x", "role": "viewer"})
    assert error["code"] == "too_many_api_keys"


@pytest.mark.asyncio(loop_scope="module")
async def test_what_a_key_sends_bears_its_name_and_no_line_of_the_log_the_key(
    api: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    account = await api.new_account(owner="ada")
    made = await new_key(api, account, "viewer", name="secret-free name")
    await api("GET", f"/bot/profile?account_id={account['id']}", **bearer(made["key"]))
    await api.refused("GET", "/admin/fleet", status=403, **bearer(made["key"]))
    assert any(getattr(record, "api_key", None) == made["id"] for record in caplog.records)
    assert not any(made["key"] in str(record.__dict__) for record in caplog.records)


async def test_a_revoked_key_is_refused_by_every_replica_at_once(world: World, within: Within) -> None:
    path = f"/accounts/{world.account['id']}/api-keys"
    made = await world.api("POST", path, json={"name": "n", "role": "viewer"}, status=201)

    async def statuses() -> set[int]:
        answers = [
            await world.http.get(f"{replica.url}/accounts", headers={"Authorization": f"Bearer {made['key']}"})
            for replica in world.fleet.replicas
        ]
        return {answer.status_code for answer in answers}

    for _ in range(2):  # the second time from memory
        assert await statuses() == {200}
    response = await world.http.delete(f"{world.fleet.replicas[1].url}{path}/{made['id']}", headers=world.operator)
    assert response.status_code == 204
    async with asyncio.timeout(within(EVERYWHERE_SECONDS)):
        while await statuses() != {401}:
            await asyncio.sleep(0.01)
