"""The service "before" of `headline`: what a first version of such a backend usually looks like. Written for the bench,
with the habits that it is about, on purpose:

- time limits of 45 s (Gemini), 20 s (WhatsApp) and 10 s (Auth); a new `httpx.AsyncClient` for each call;
- no retry, no circuit breaker, no cache; each request reads what it needs from the database again;
- the synchronous Supabase client, in the thread pool of asyncio;
- all the work before the webhook's 200. An error that nothing catches is a 500, and Meta delivers again.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import httpx
import orjson
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse
from supabase import create_client

from tests.bench.ingest_server import is_signed, serve
from tests.bench.traffic import PATH

GEMINI_SECONDS, WHATSAPP_SECONDS, AUTH_SECONDS = 45.0, 20.0, 10.0
KEEP_ALIVE_SECONDS = 75
HISTORY = 20
MODEL = "gemini-2.5-flash"
Row = dict[str, Any]

app = FastAPI()
env = os.environ
database = create_client(env["SUPABASE_URL"], env["SUPABASE_KEY"])


async def run(query: Any) -> list[Row]:
    """One request to the database, on a thread."""
    rows: list[Row] = (await asyncio.to_thread(query.execute)).data
    return rows


async def find(table: str, **equal: str) -> Row | None:
    query = database.table(table).select("*")
    for column, value in equal.items():
        query = query.eq(column, value)
    rows = await run(query.limit(1))
    return rows[0] if rows else None


async def find_or_insert(table: str, more: Row, **equal: str) -> Row:
    found = await find(table, **equal)
    if found is None:
        (found,) = await run(database.table(table).upsert({**equal, **more}, on_conflict=",".join(equal)))
    return found


@app.post(PATH)
async def receive(request: Request) -> PlainTextResponse:
    body = await request.body()
    if not is_signed(env["META_APP_SECRET"].encode(), body, request.headers["x-hub-signature-256"].encode()):
        raise HTTPException(401)
    for entry in orjson.loads(body)["entry"]:
        for change in entry["changes"]:
            value = change["value"]
            for message in value.get("messages", []):
                await answer(value, message)
            for status in value.get("statuses", []):
                await note(status)
    return PlainTextResponse("OK")


async def answer(value: Row, message: Row) -> None:
    number, wa_id, text = value["metadata"]["phone_number_id"], message["from"], message["text"]["body"]
    account = await find("whatsapp_accounts", phone_number_id=number)
    if account is None:
        return
    name = value["contacts"][0]["profile"]["name"]
    contact = await find_or_insert("contacts", {"name": name}, account_id=account["id"], wa_id=wa_id)
    conversation = await find_or_insert("conversations", {}, account_id=account["id"], contact_id=contact["id"])
    await store(conversation, "inbound", text, message["id"], "received")
    await whatsapp(account, {"status": "read", "message_id": message["id"], "typing_indicator": {"type": "text"}})
    profile = await find("bot_profiles", account_id=account["id"])
    history = await run(
        database.table("messages")
        .select("*")
        .eq("conversation_id", conversation["id"])
        .order("id", desc=True)
        .limit(HISTORY)
    )
    reply = await gemini(profile or {}, history)
    sent = await whatsapp(account, {"to": f"+{wa_id}", "type": "text", "text": {"body": reply}})
    await store(conversation, "outbound", reply, sent["messages"][0]["id"], "sent")
    await run(database.table("conversations").update({"updated_at": "now"}).eq("id", conversation["id"]))


async def store(conversation: Row, direction: str, text: str, wamid: str, status: str) -> None:
    row = {
        "conversation_id": conversation["id"], "direction": direction, "content": text, "wa_message_id": wamid,
        "status": status,
    }  # fmt: skip
    await run(database.table("messages").upsert(row, on_conflict="wa_message_id"))


async def note(status: Row) -> None:
    if await find("messages", wa_message_id=status["id"]):
        change = database.table("messages").update({"status": status["status"]})
        await run(change.eq("wa_message_id", status["id"]))


async def gemini(profile: Row, history: list[Row]) -> str:
    turns = [
        {"role": "user" if row["direction"] == "inbound" else "model", "parts": [{"text": row["content"]}]}
        for row in reversed(history)
    ]
    while turns and turns[0]["role"] == "model":
        turns.pop(0)
    system = f"You are the assistant of {profile.get('business_name')}.\n{profile.get('knowledge_base')}"
    payload = {"systemInstruction": {"parts": [{"text": system}]}, "contents": turns}
    async with httpx.AsyncClient(timeout=GEMINI_SECONDS) as client:
        response = await client.post(
            f"{env['GEMINI_BASE_URL']}/v1beta/models/{MODEL}:generateContent",
            json=payload,
            headers={"x-goog-api-key": env["GEMINI_API_KEY"]},
        )
    response.raise_for_status()
    return str(response.json()["candidates"][0]["content"]["parts"][0]["text"])


async def whatsapp(account: Row, payload: Row) -> Row:
    async with httpx.AsyncClient(timeout=WHATSAPP_SECONDS) as client:
        response = await client.post(
            f"{env['WHATSAPP_BASE_URL']}/v26.0/{account['phone_number_id']}/messages",
            json={"messaging_product": "whatsapp", "recipient_type": "individual", **payload},
            headers={"authorization": f"Bearer {account['access_token']}"},
        )
    response.raise_for_status()
    answered: Row = response.json()
    return answered


async def member(request: Request, account_id: str) -> None:
    """Auth is asked who this is, the database whether they belong to the account."""
    async with httpx.AsyncClient(timeout=AUTH_SECONDS) as client:
        response = await client.get(
            f"{env['SUPABASE_URL']}/auth/v1/user", headers={"authorization": request.headers["authorization"]}
        )
    response.raise_for_status()
    if await find("account_members", account_id=account_id, user_id=response.json()["id"]) is None:
        raise HTTPException(404)


@app.get("/bot/profile")
async def read_profile(request: Request, account_id: str) -> Row | None:
    await member(request, account_id)
    return await find("bot_profiles", account_id=account_id)


@app.get("/conversations")
async def list_conversations(request: Request, account_id: str, limit: int = 20) -> Row:
    await member(request, account_id)
    query = database.table("conversations").select("*").eq("account_id", account_id)
    conversations = await run(query.order("updated_at", desc=True).limit(limit))
    return {"items": conversations}


if __name__ == "__main__":
    with Path(os.devnull).open("w") as nowhere:  # its log costs what a log costs, and is not kept
        logging.basicConfig(stream=nowhere, level=logging.INFO)
        serve(app, keep_alive_seconds=KEEP_ALIVE_SECONDS)
