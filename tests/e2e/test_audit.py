"""The audit trail over HTTP and on the command line: who, what, when, from where."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.test_cli import in_here
from tests.support.replica import Replica, one_replica

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(module_stores: tuple[str, str]) -> AsyncIterator[Replica]:
    """One for all tests of the module, behind one balancer: each has an account of its own."""
    async with one_replica(*module_stores, trusted_proxies=1) as api:
        yield api


async def trail(api: Replica, account: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """The newest first."""
    page = await api("GET", f"/accounts/{account['id']}/audit?limit=100", **more)
    return list(page["items"])


async def test_a_change_is_on_record_with_its_person_address_and_request(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    headers = {"X-Forwarded-For": "10.9.9.9, 203.0.113.7", "X-Request-ID": "from-the-console-1"}
    path = f"/bot/profile?account_id={account['id']}"
    await api("PUT", path, user="ada", json={"hours": "9-17", "knowledge_base": "x"}, headers=headers)
    entry = (await trail(api, account, user="ada"))[0]
    assert {name: entry[name] for name in ("actor_kind", "actor_id", "address", "request_id", "action", "subject")} == {
        "actor_kind": "user", "actor_id": "ada", "address": "203.0.113.7", "request_id": "from-the-console-1",
        "action": "profile.changed", "subject": account["id"],
    }  # fmt: skip
    assert entry["changes"] == {
        "hours": {"old": None, "new": "9-17"}, "knowledge_base": {"old": None, "new": "x"},
    }  # fmt: skip


async def test_a_key_and_the_operator_are_on_record_as_what_they_are(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    keys = f"/accounts/{account['id']}/api-keys"
    key = await api("POST", keys, user="ada", json={"name": "crm", "role": "owner"}, status=201)
    bearer = {"Authorization": f"Bearer {key['key']}"}
    await api("PUT", f"/accounts/{account['id']}/members/bob", json={"role": "viewer"}, headers=bearer)
    await api("PATCH", f"/accounts/{account['id']}", json={"access_token": "another-token-of-it"})
    webhook = {"url": "https://receiver.example/", "events": ["message.sent"]}
    made = await api("POST", f"/accounts/{account['id']}/webhooks", user="ada", json=webhook, status=201)
    entries = await trail(api, account, user="ada")
    assert [(e["actor_kind"], e["actor_id"], e["action"], e["subject"]) for e in reversed(entries)] == [
        ("operator", "operator", "account.created", account["id"]),
        ("operator", "operator", "member.created", "ada"),
        ("user", "ada", "api_key.created", key["id"]),
        ("key", f"key:{key['id']}", "member.created", "bob"),
        ("operator", "operator", "account.changed", account["id"]),
        ("user", "ada", "webhook.created", made["id"]),
    ]
    assert entries[1]["changes"] == {"access_token": {"changed": True}}
    assert made["secret"] not in str(entries)


async def test_a_refused_change_leaves_nothing(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    before = await trail(api, account)
    await api.refused("DELETE", f"/accounts/{account['id']}/members/ada", user="ada", status=409)
    await api.refused("PATCH", f"/accounts/{account['id']}", user="ada", status=422, json={"slug": "NO"})
    assert await trail(api, account) == before


async def test_a_forced_circuit_is_in_the_trail_of_its_account_or_in_the_operators(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    name = f"whatsapp_api:{account['phone_number_id']}"
    await api("POST", f"/admin/breakers/{name}", json={"action": "open", "why": "a new token comes"})
    await api("POST", f"/admin/breakers/{name}", json={"action": "auto"})
    await api("POST", "/admin/breakers/gemini", json={"action": "auto"})
    last, first = (await trail(api, account))[:2]
    assert (first["action"], first["subject"], first["actor_kind"]) == ("breaker.forced", name, "operator")
    assert first["changes"] == {
        "state": {"old": "closed", "new": "open, forced"}, "why": {"old": None, "new": "a new token comes"},
    }  # fmt: skip
    assert last["changes"]["state"] == {"old": "open, forced", "new": "closed"}
    whole = (await api("GET", "/admin/audit?limit=1"))["items"][0]
    assert (whole["subject"], whole["account_id"]) == ("gemini_api", None)


async def test_a_circuit_forced_on_the_command_line_is_on_record(
    api: Replica, module_stores: tuple[str, str], tmp_path: Path
) -> None:
    redis_url, database_url = module_stores
    words = ("breakers", "auto", "whatsapp", "--why", "it is back")
    for more in ({"DATABASE_URL": database_url}, {}):  # and where there is no database, it is forced all the same
        done = await asyncio.to_thread(in_here, tmp_path, *words, REDIS_URL=redis_url, **more)
        assert done.returncode == 0, done.stderr
    entries = (await api("GET", "/admin/audit?limit=20"))["items"]
    (found,) = [entry for entry in entries if entry["subject"] == "whatsapp_api"]
    assert (found["actor_kind"], found["action"]) == ("operator", "breaker.forced")
    assert found["actor_id"].endswith(" (cli)")
    assert found["changes"]["why"]["new"] == "it is back"


async def test_owners_read_it_page_by_page_and_others_do_not(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    path = f"/accounts/{account['id']}/audit"
    await api("PUT", f"/accounts/{account['id']}/members/bob", user="ada", json={"role": "agent"})
    first = await api("GET", f"{path}?limit=2", user="ada")
    rest = await api("GET", f"{path}?limit=2&cursor={first['next_cursor']}", user="ada")
    assert [len(first["items"]), len(rest["items"]), rest["next_cursor"]] == [2, 1, None]
    assert (await api.refused("GET", path, user="bob", status=403))["code"] == "forbidden"
    assert (await api.refused("GET", path, user="eve", status=404))["code"] == "account_not_found"
    await api.refused("GET", "/admin/audit", user="ada", status=403)
