"""The rest of the HTTP interface: accounts, profiles, conversations, health, operators' routes."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter

import pytest

from app.wiring import UPSTREAM_PROBE_SECONDS
from tests.support.world import World


async def test_health_in_its_json_shape_for_everybody_and_in_full_for_operators(world: World) -> None:
    async with asyncio.timeout(10):  # what an earlier test broke is found well with the next look
        while (public := (await world.http.get(world.fleet.replicas[0].url + "/health")).json())["status"] != "ok":
            await asyncio.sleep(0.05)
    assert set(public) == {"status", "timestamp", "dependencies", "circuit_breakers"}
    assert {name: d["status"] for name, d in public["dependencies"].items()} == dict.fromkeys(
        ("redis", "supabase", "whatsapp", "gemini"), "ok"
    )
    assert all(set(d) == {"status", "latency_ms"} for d in public["dependencies"].values())
    circuits = public["circuit_breakers"]
    assert {name: circuit["state"] for name, circuit in circuits.items()} == dict.fromkeys(
        ("gemini", "whatsapp", "supabase"), "closed"
    )
    # An earlier test's outage may still be counted: a success ends a row of failures, and there need not be one.
    assert all(set(circuit) == {"state", "failure_count"} for circuit in circuits.values())
    async with asyncio.timeout(10):  # a replica that has just started is known after the next heartbeat
        while (full := await world.api("GET", "/health"))["fleet"] != {"replicas": 3}:
            await asyncio.sleep(0.05)
    assert full["dependencies"]["redis"]["role"] == "master"
    assert full["dependencies"]["redis"]["persistence"] == "aof"
    assert full["dependencies"]["redis"]["channel"] == "trusted"
    assert full["dependencies"]["redis"]["replication"] == {"replicas": 0, "behind_bytes": None}
    assert full["dependencies"]["redis"]["memory"]["used_bytes"] > 0
    assert full["background"]["event_loop"]["running"] is True
    assert {"pending", "oldest_seconds", "dead"} <= set(full["queue"])
    assert "hits" in full["cache"]
    assert full["silent_numbers"] == []
    assert full["build"].startswith("src-")
    assert (await world.api("GET", "/admin/silent-numbers")) == {"items": []}


async def test_liveness_and_readiness(world: World) -> None:
    for replica in world.fleet.replicas:
        live = await world.http.get(replica.url + "/health/live")
        assert (live.status_code, live.json()) == (200, {"status": "alive"})
        ready = await world.http.get(replica.url + "/health/ready")
        assert (ready.status_code, ready.json()) == (200, {"status": "ready", "redis": "ok", "database": "ok"})


async def test_three_replicas_look_at_an_upstream_as_often_as_one(world: World) -> None:
    fleet = await world.api("GET", "/admin/fleet")
    age = time.time() - min(replica["started_at"] for replica in fleet["replicas"])
    looks: Counter[str] = Counter()
    for replica in world.fleet.replicas:
        text = (await world.http.get(f"{replica.url}/metrics", headers=world.operator)).text
        for name, count in re.findall(r'chorus_dependency_probes_total{dependency="(\w+)"} ([\d.]+)', text):
            looks[name] += float(count)
    for upstream in ("gemini", "whatsapp"):
        # Calls that hang on a busy machine are looked at in between; three replicas on their own would make three times
        # as many looks.
        assert looks[upstream] <= 2 * (age / UPSTREAM_PROBE_SECONDS + 1), looks
    assert looks["redis"] >= 3


async def test_the_fleet_lists_every_replica(world: World) -> None:
    pids = sorted(replica.pid or 0 for replica in world.fleet.replicas)
    async with asyncio.timeout(10):  # one that has just started, or was killed, is known as such after a heartbeat
        while True:
            fleet = await world.api("GET", "/admin/fleet", replica=2)
            if sorted(replica["pid"] for replica in fleet["replicas"]) == pids:
                break
            await asyncio.sleep(0.05)
    for replica in fleet["replicas"]:
        assert {
            "id",
            "version",
            "build",
            "host",
            "started_at",
            "phase",
            "status",
            "role",
            "active",
            "concurrency",
        } <= set(replica)
        assert set(replica["breakers"]) == {"gemini", "whatsapp", "supabase"}
    async with asyncio.timeout(10):  # a replica tells its view with its next heartbeat
        while {state for replica in fleet["replicas"] for state in replica["breakers"].values()} != {"closed"}:
            await asyncio.sleep(0.05)
            fleet = await world.api("GET", "/admin/fleet", replica=2)


async def test_metrics_are_rendered(world: World) -> None:
    text = (await world.http.get(world.fleet.replicas[0].url + "/metrics", headers=world.operator)).text
    for name in ("chorus_webhook_seconds_count", "chorus_http_request_seconds", "chorus_circuit_breaker_state"):
        assert name in text


async def test_a_profile_takes_any_subset_and_comes_back_whole(world: World) -> None:
    path = f"/bot/profile?account_id={world.account['id']}"
    changed = await world.api("PUT", path, json={"hours": "always", "custom_fields": {"a": [1, {"b": None}]}})
    assert changed["hours"] == "always"
    assert changed["business_name"] == "Maison Levain"
    assert await world.api("GET", path) == changed


async def test_an_account_is_changed_and_deactivated(world: World) -> None:
    path = f"/accounts/{world.account['id']}"
    changed = await world.api("PATCH", path, json={"name": "New name", "bot_auto_on": False})
    assert (changed["name"], changed["bot_auto_on"]) == ("New name", False)
    assert changed["id"] in {account["id"] for account in await world.api("GET", "/accounts", replica=1)}


async def test_bot_auto_off_means_silence_in_new_conversations(world: World) -> None:
    await world.api("PATCH", f"/accounts/{world.account['id']}", json={"bot_auto_on": False})
    customer = world.customer("Amina", 0)
    await customer.say("Where are you?")
    await world.until_idle()
    conversation = await world.conversation_of(customer)
    assert conversation["bot_enabled"] is False
    assert await world.sandbox.record(kind="send", to=customer.person.wa_id) == []


async def test_a_person_answers_through_the_api_once_however_often_it_is_asked(world: World) -> None:
    customer = world.customer()
    await customer.say("Where are you?")
    await customer.wait_for_reply()
    await world.until_idle()
    conversation = await world.conversation_of(customer)
    path = f"/conversations/{conversation['id']}/messages"
    in_capitals = f"/conversations/{conversation['id'].upper()}/messages"
    headers = {"Idempotency-Key": "click-1"}
    first, second = await asyncio.gather(
        world.api("POST", path, json={"text": "Claire here"}, headers=headers, status=202),
        world.api("POST", in_capitals, json={"text": "Claire here"}, headers=headers, status=202, replica=1),
    )
    assert first["key"] == second["key"]
    (reply,) = await customer.wait_for_reply()
    assert reply.text == "Claire here"
    await world.until_idle()
    sends = await world.sandbox.record(kind="send", to=customer.person.wa_id)
    assert [send["text"] for send in sends].count("Claire here") == 1
    after = await world.conversation_of(customer)
    assert after["bot_enabled"] is False
    newest = (await world.api("GET", f"{path}?limit=1"))["items"][0]
    assert (newest["author"], newest["text"]) == ("human", "Claire here")


async def test_an_idempotency_key_stands_for_one_text(world: World) -> None:
    customer, other = world.customer("Amina"), world.customer("Bruno")
    for each in (customer, other):
        await each.say("Where are you?")
        await each.wait_for_reply()
    await world.until_idle()
    path, elsewhere = [
        f"/conversations/{(await world.conversation_of(each))['id']}/messages" for each in (customer, other)
    ]
    key = {"Idempotency-Key": "click-1"}
    first = await world.api("POST", path, json={"text": " Claire here "}, headers=key, status=202)
    assert await world.api("POST", path, json={"text": "Claire here"}, headers=key, status=202, replica=1) | {
        "state": ""
    } == first | {"state": ""}
    for replica, text in enumerate(("Claire", "claire here", "Claire here.")):
        answer = await world.api("POST", path, json={"text": text}, headers=key, status=422, replica=replica)
        assert (answer["error"]["code"], answer["error"]["field"]) == ("idempotency_key_reused", "Idempotency-Key")
    await world.api("POST", elsewhere, json={"text": "Another customer's"}, headers=key, status=202)
    await world.until_idle()
    sends = [send["text"] for send in await world.sandbox.record(kind="send", to=customer.person.wa_id)]
    assert sends[1:] == ["Claire here"]


@pytest.mark.parametrize("key", ["", "x" * 201, "two words", "é"])
async def test_an_idempotency_key_is_bounded(world: World, key: str) -> None:
    path = "/conversations/00000000-0000-4000-8000-000000000000/messages"
    headers = {"Idempotency-Key": key.encode("latin-1")}
    answer = await world.api("POST", path, json={"text": "x"}, headers=headers, status=422)
    assert answer["error"]["field"] == "Idempotency-Key"


async def test_outside_the_window_a_person_is_told_so(world: World) -> None:
    customer = world.customer()
    await customer.say("Where are you?")
    await customer.wait_for_reply()
    await world.until_idle()
    conversation = await world.conversation_of(customer)
    await world.execute(
        "update conversations set last_inbound_at = now() - interval '25 hours' where id = $1", conversation["id"]
    )
    answer = await world.api("POST", f"/conversations/{conversation['id']}/messages", json={"text": "x"}, status=409)
    assert answer["error"]["code"] == "window_closed"


async def test_unread_counts_and_read_marks(world: World) -> None:
    customer = world.customer()
    await customer.batch("one", "two", "three")
    await customer.wait_for_reply()
    await world.until_idle()
    conversation = await world.conversation_of(customer)
    assert conversation["unread_count"] == 3
    read = await world.api("POST", f"/conversations/{conversation['id']}/read")
    assert read["unread_count"] == 0


async def test_pages_of_messages_are_complete_and_do_not_overlap(world: World) -> None:
    customer = world.customer()
    await customer.batch(*(f"line {n}" for n in range(10)))
    await customer.wait_for_reply()
    await world.until_idle()
    path = f"/conversations/{(await world.conversation_of(customer))['id']}/messages"
    seen, cursor = [], ""
    while cursor is not None:
        page = await world.api("GET", f"{path}?limit=4&cursor={cursor}" if cursor else f"{path}?limit=4")
        seen += [message["id"] for message in page["items"]]
        cursor = page["next_cursor"]
    assert len(seen) == len(set(seen)) == 11


async def test_a_breaker_forced_open_stops_calls_and_is_seen(world: World) -> None:
    await world.api("POST", "/admin/breakers/gemini", json={"action": "open"})
    try:
        health = await world.api("GET", "/health")
        assert health["status"] == "degraded"
        assert health["circuit_breakers"]["gemini"]["state"] == "open"
    finally:
        await world.api("POST", "/admin/breakers/gemini", json={"action": "auto"})
    assert (await world.api("GET", "/admin/breakers"))["gemini"]["state"] == "closed"


async def test_the_cache_is_inspected_and_invalidated(world: World) -> None:
    await world.api("GET", f"/bot/profile?account_id={world.account['id']}")
    assert (await world.api("GET", "/admin/cache"))["entries"] > 0
    answer = await world.api("POST", "/admin/cache/invalidate", json={"pattern": "bot_profile:*"})
    assert answer["invalidated"] >= 1


async def test_lists_are_filtered_counted_and_searched(world: World) -> None:
    customer = world.customer("Séverine", 0)
    await customer.say("Avez-vous des mirabelles ?")
    await world.until_idle()
    conversation = await world.conversation_of(customer)
    path = f"/conversations?account_id={world.account['id']}&unread=true&bot=true&q="
    async with asyncio.timeout(20):  # words are written down every two seconds
        while not (found := (await world.api("GET", f"{path}MIRABELLE"))["items"]):
            await asyncio.sleep(0.2)  # time itself
    assert [item["id"] for item in found] == [conversation["id"]]
    assert [item["id"] for item in (await world.api("GET", f"{path}severine"))["items"]] == [conversation["id"]]
    assert (await world.api("GET", f"{path}mirabelle&needs_human=true"))["items"] == []
    counts = await world.api("GET", f"/conversations/counts?account_id={world.account['id']}")
    assert counts["all"] >= counts["unread"] >= 1
    assert counts["counted_to"] == 1000
    for wrong in ("needs_human=yes", "q=", "q=%20", "bots=true"):
        answer = await world.http.get(
            f"{world.fleet.replicas[0].url}/conversations?account_id={world.account['id']}&{wrong}",
            headers=world.operator,
        )
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, wrong.partition("=")[0])
