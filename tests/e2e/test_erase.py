"""A customer is handed out, erased everywhere, and erased while an answer is being made: every column and every key is
searched byte for byte."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import redis

import app.sandbox
from app.sandbox import webhooks
from app.sandbox.customers import Customer
from tests.support.world import World

FILES = Path(app.sandbox.__file__).parent / "files"
SECRET = "Ma clef est sous le géranium 48151623"
"""What is looked for has letters around its digits: five digits alone are in many a time of another test's rows."""
HELD = "Avez-vous trouvé mon parapluie n42108kw?"
SPOKEN = "Le parapluie n42110kw est-il rouge?"
FILE = "48151624"
"""In the bytes of files."""
ANSWER = "Nous gardons le parapluie n42109kw pour vous."


async def stored(world: World) -> dict[str, bytes]:
    """Every row of every table, as text and with its bytes as they are, by table."""
    tables = await world.rows("select oid::regclass::text as name from pg_class where relkind = 'r' and relnamespace"
                              " in ('public'::regnamespace, 'chorus'::regnamespace)")  # fmt: skip
    found = {}
    for table in tables:
        rows = await world.rows(f"select to_jsonb(t)::text as row from {table['name']} t")
        columns = await world.rows(
            "select attname as name from pg_attribute"
            " where attrelid = $1::text::regclass and atttypid = 'bytea'::regtype",
            table["name"],
        )
        raw = [
            bytes(row["value"])
            for column in columns
            for row in await world.rows(f"select {column['name']} as value from {table['name']}")
        ]
        found[table["name"]] = b"\n".join([*(row["row"].encode() for row in rows), *raw])
    return found


def kept(world: World) -> dict[str, bytes]:
    """Every key of Redis with its value."""
    with redis.Redis.from_url(world.servers.redis_url) as client:
        return {key.decode(): value_of(client, key) for key in client.scan_iter(count=1000)}


def value_of(client: redis.Redis, key: bytes) -> bytes:
    read = {
        b"string": lambda: [client.get(key)],
        b"list": lambda: client.lrange(key, 0, -1),
        b"hash": lambda: [part for pair in client.hgetall(key).items() for part in pair],
        b"zset": lambda: client.zrange(key, 0, -1),
        b"set": lambda: client.smembers(key),
        b"stream": lambda: [part for _, fields in client.xrange(key) for pair in fields.items() for part in pair],
        b"none": list,  # it has gone meanwhile
    }
    return b"\n".join(part or b"" for part in read[client.type(key)]())


async def hits(world: World, words: Iterable[str]) -> list[tuple[str, str]]:
    """(place, word): in a value, or in a key's name; also where JSON has escaped it or base64 hides it."""
    forms = {
        form: word
        for word in words
        for form in (word.encode(), word.encode("ascii", "backslashreplace"), base64.b64encode(word.encode()))
    }
    places = await stored(world) | kept(world)
    return [
        (place, word)
        for place, value in places.items()
        for form, word in forms.items()
        if form in value or form in place.encode()
    ]


async def ids_of(world: World, conversation_id: str) -> list[str]:
    rows = await world.rows(
        "select wa_message_id as id from messages where conversation_id = $1::uuid and wa_message_id is not null",
        uuid.UUID(conversation_id),
    )
    return [row["id"] for row in rows]


async def everywhere(world: World, customer: Customer) -> dict[str, Any]:
    """The customer leaves traces wherever there is room for some."""
    number, phone = world.business.phone_number_id, customer.person.wa_id
    await world.execute(
        "insert into webhook_endpoints (account_id, url, events, secret) values ($1::uuid, 'https://receiver.invalid/',"
        " array['message.received', 'message.sent', 'message.status'], 'cipher')",
        uuid.UUID(world.account["id"]),
    )  # fmt: skip
    await customer.say(SECRET)
    await customer.wait_for_reply()
    await world.until_idle()
    await customer.send_voice((FILES / "vegan.ogg").read_bytes() + FILE.encode(), says=SPOKEN)
    await customer.wait_for_reply()
    await world.until_idle()
    conversation = await world.conversation_of(customer)
    path = f"/conversations/{conversation['id']}/messages"
    document = {"file": ("parapluie-n42111kw.pdf", (FILES / "order.pdf").read_bytes() + FILE.encode())}
    await world.api("POST", path, files=document, data={"text": ANSWER}, status=202)
    await world.until_idle()
    await world.api("POST", path, json={"text": ANSWER}, status=202, headers={"Idempotency-Key": "the-umbrella"})
    await customer.wait_for_reply()
    await world.until_idle()
    await world.api("POST", f"/conversations/{conversation['id']}/bot", json={"enabled": True})
    message = webhooks.text(customer.person, SECRET)
    del message["id"]
    await world.post(customer.webhook(message))  # cannot be read: a dead letter
    for table in ("inbox", "journal", "overflow"):
        await world.execute(
            f"insert into {table} (event_id, mailbox, payload, immediate) values ($1, $2, $3, true)",
            f"status:{number}:wamid.{table}:read", f"status:{number}:{phone}", f"{phone} {SECRET}".encode(),
        )  # fmt: skip
    await world.until_idle()
    return conversation


async def test_a_customer_is_erased_everywhere(world: World) -> None:
    customer = world.customer("Zéphyrine Quatrebarbes")
    conversation = await everywhere(world, customer)
    contact_id = conversation["contact"]["id"]
    await world.execute(
        "insert into orphan_statuses (account_id, wa_message_id, status) values ($1::uuid, $2, 'read')",
        uuid.UUID(world.account["id"]), "wamid." + base64.b64encode(f"HBgL{customer.person.wa_id}!!".encode()).decode(),
    )  # fmt: skip
    bystander = world.customer("Bystander")
    await bystander.say("Do you have bread?")
    await bystander.wait_for_reply()
    async with asyncio.timeout(20):  # the words of the search are written down every two seconds
        while await world.value("select count(*) from search_pending"):
            await asyncio.sleep(0.2)  # time itself

    document = await world.api("GET", f"/contacts/{contact_id}/export")
    assert document["contact"]["name"] == "Zéphyrine Quatrebarbes"
    assert [c["id"] for c in document["conversations"]] == [conversation["id"]]
    said = {(m["author"], m["text"]) for m in document["messages"]}
    assert {("customer", SECRET), ("human", ANSWER)} <= said
    assert all("status" in m for m in document["messages"])

    # One answer is being made while the owner asks.
    fault = await world.sandbox.add_fault("gemini", action="hang_before")
    held = await customer.say(HELD)
    async with asyncio.timeout(10):
        while not (await world.sandbox.get_fault(fault))["fired"]:
            await asyncio.sleep(0.02)
    sends = len(await world.sandbox.record(kind="send", to=customer.person.wa_id))
    words = [
        customer.person.wa_id or "", "Zéphyrine", "zephyrine", "Quatrebarbes", "géranium", "48151623", "n42108kw",
        "n42109kw", "n42110kw", "n42111kw", FILE, "the-umbrella", held, *await ids_of(world, conversation["id"]),
    ]  # fmt: skip
    places = {place for place, _ in await hits(world, words)}
    assert {"contacts", "messages", "replies", "journal", "conversation_words", "media", "media_chunks"} <= places

    erased = await world.api("DELETE", f"/contacts/{contact_id}", replica=1)
    assert erased["database"]["contacts"] == erased["database"]["conversations"] == 1
    assert erased["database"]["messages"] >= 3
    assert erased["database"]["statuses"] == 1
    assert erased["queue"]["claims"] == 1
    assert erased["queue"]["dead_letters"] >= 1
    assert erased["queue"]["ids"] >= 3
    assert await hits(world, words) == []
    trail = (await world.api("GET", f"/accounts/{world.account['id']}/audit"))["items"][:2]
    assert [entry["action"] for entry in trail] == ["contact.erased", "contact.exported"]
    assert {entry["actor_kind"] for entry in trail} == {"operator"}
    assert trail[0]["subject"] == trail[1]["subject"]
    assert trail[0]["changes"]["removed"]["new"] == erased["database"]

    await world.sandbox.clear_faults()
    await world.until_idle()
    assert len(await world.sandbox.record(kind="send", to=customer.person.wa_id)) == sends, "nothing is sent afterwards"
    again = await world.api("DELETE", f"/contacts/{contact_id}", replica=2)
    assert again["database"] == erased["database"]
    await customer.write(webhooks.text(customer.person, HELD) | {"id": held})  # Meta delivers it again
    await world.until_idle()
    assert await hits(world, [word for word in words if word != held]) == []
    assert (await world.conversation_of(bystander))["contact"]["name"] == "Bystander"
    assert len(await world.sandbox.record(kind="send", to=customer.person.wa_id)) == sends


async def test_only_owners_erase_and_hand_out_and_a_stranger_sees_no_contact(world: World) -> None:
    await world.api("DELETE", f"/contacts/{uuid.uuid4()}", status=404)
    answer = await world.api("GET", "/contacts/nobody/export", status=404)
    assert answer["error"]["code"] == "contact_not_found"
