"""Statuses of what we sent: in any order, any number of times, before the answer or in its place; on every store."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import asyncpg
import pytest

from app.adapters.sql_store import SqlStore
from app.domain.errors import NotFound
from app.domain.models import Reply, ReplyState, Status
from app.domain.ports import SendDecision
from tests.support.store_kit import NOW, Scene, begin, look, message, outbound, uncommitted, unique, until_all_wait

NOBODY = str(uuid.uuid4())


async def sent_reply(scene: Scene) -> tuple[Reply, str]:
    reply, wamid = await scene.reply(), unique("wamid")
    await begin(scene.store, reply)
    await scene.store.complete_part(reply.key, part=0, wamid=wamid, last=True)
    return reply, wamid


@pytest.mark.parametrize(
    ("arriving", "expected"),
    [
        (["delivered", "sent", "read", "delivered"], "read"),
        (["read", "sent", "delivered"], "read"),
        (["played", "read"], "played"),
        (["sent", "failed"], "failed"),
        (["failed", "sent"], "failed"),
        (["delivered", "failed"], "delivered"),
        (["failed", "delivered"], "delivered"),
        (["failed", "failed"], "failed"),
    ],
)
async def test_statuses_apply_in_any_order(scene: Scene, arriving: list[str], expected: str) -> None:
    reply, wamid = await sent_reply(scene)
    before = await outbound(scene.store, reply)
    for name in arriving:
        error = {"code": 131026} if name == "failed" else None
        assert await scene.status(name, wamid=wamid, error=error)
    after = await outbound(scene.store, reply)
    assert after.status == expected
    assert after.error == ({"code": 131026} if expected == "failed" else None)
    assert after.timestamp == before.timestamp
    assert (await look(scene.store, reply)).state is ReplyState.SENT


@pytest.mark.parametrize("with_key", [True, False])
async def test_a_status_before_the_answer_to_the_send_is_kept(scene: Scene, with_key: bool) -> None:
    reply, wamid = await scene.reply(), unique("wamid")
    await begin(scene.store, reply)
    key = f"{reply.key}#0" if with_key else None
    assert await scene.status("delivered", wamid=wamid, key=key) is with_key
    assert await scene.status("sent", wamid=wamid, key=key) is with_key
    await scene.store.complete_part(reply.key, part=0, wamid=wamid, last=True)
    stored = await outbound(scene.store, reply)
    assert (stored.status, stored.wa_message_id) == (Status.DELIVERED, wamid)
    assert (await look(scene.store, reply)).state is ReplyState.SENT


@pytest.mark.parametrize("first", ["status", "answer"])
async def test_of_a_status_and_the_answer_at_once_neither_is_lost(
    scene: Scene, sql: asyncpg.Connection, first: str
) -> None:
    """Neither sees the other's work before it is committed, so one has to wait."""
    store, reply, wamid = scene.store, await scene.reply(), unique("wamid")
    await begin(store, reply)
    if first == "answer":
        answer = {"key": reply.key, "part": 0, "wamid": wamid, "last": True}
        async with uncommitted(sql, "select chorus_complete_part($1::jsonb)", json.dumps(answer)):
            late: asyncio.Task[Any] = asyncio.create_task(scene.status("delivered", wamid=wamid))
            await until_all_wait(sql, late)
    else:
        status = {"account_id": scene.account.id, "wa_message_id": wamid, "status": "delivered"}
        async with uncommitted(sql, "select chorus_apply_status($1::jsonb)", json.dumps(status)):
            late = asyncio.create_task(store.complete_part(reply.key, part=0, wamid=wamid, last=True))
            await until_all_wait(sql, late)
    await late
    assert (await outbound(store, reply)).status is Status.DELIVERED


@pytest.mark.parametrize(("parts", "state"), [(1, ReplyState.SENT), (2, ReplyState.PENDING)])
async def test_a_status_alone_proves_that_a_part_went_out(scene: Scene, parts: int, state: ReplyState) -> None:
    """Accepted by WhatsApp, our note of it lost: the echo of our key settles it."""
    store, reply, wamid = scene.store, await scene.reply(), unique("wamid")
    await begin(store, reply, parts=parts)
    assert await scene.status("sent", wamid=wamid, key=f"{reply.key}#0")
    proven = await look(store, reply)
    assert (proven.state, proven.part, proven.wamid, proven.sending_since) == (state, 1, wamid, None)
    assert await begin(store, reply, parts=parts, fence=2) is SendDecision.SENT
    assert (await outbound(store, reply)).wa_message_id == wamid


async def test_a_failure_status_settles_an_unknown_outcome_too(scene: Scene) -> None:
    reply, error = await scene.reply(), {"code": 131026}
    await begin(scene.store, reply)
    assert await scene.status("failed", wamid=unique("wamid"), key=f"{reply.key}#0", error=error)
    failed = await look(scene.store, reply)
    assert (failed.state, failed.error) == (ReplyState.FAILED, error)
    assert (await outbound(scene.store, reply)).error == error
    assert await begin(scene.store, reply) is SendDecision.FAILED


@pytest.mark.parametrize("final", [True, False])
async def test_whatsapps_word_refutes_our_own_verdict(scene: Scene, final: bool) -> None:
    """We gave the send up, or took it for not made; then comes the status that shows it went out."""
    store, reply = scene.store, await scene.reply()
    await begin(store, reply)
    await store.fail_part(reply.key, fence=1, part=0, error={"code": "send_ambiguous"}, final=final)
    assert await scene.status("sent", wamid=unique("wamid"), key=f"{reply.key}#0")
    stored = await outbound(store, reply)
    assert (stored.status, stored.error) == (Status.SENT, None)
    assert (await look(store, reply)).state is ReplyState.SENT
    assert await begin(store, reply) is SendDecision.SENT


async def test_a_status_of_nobodys_message_is_kept_for_eight_days(scene: Scene, sql: asyncpg.Connection) -> None:
    old, young = unique("old"), unique("young")
    for wamid in (old, young):
        assert not await scene.status("sent", wamid=wamid)
    await sql.execute("update orphan_statuses set created_at = now() - interval '9 days' where wa_message_id = $1", old)
    await scene.status("read", wamid=young)
    kept = await sql.fetch(
        "select wa_message_id, status from orphan_statuses where account_id = $1", uuid.UUID(scene.account.id)
    )
    assert [tuple(row) for row in kept] == [(young, "read")]


async def test_a_status_of_an_echo_finds_it(scene: Scene) -> None:
    echo = message("by hand")
    assert not await scene.status("delivered", wamid=echo.wa_message_id)
    conversation = await scene.store.record_echo(scene.account.id, wa_id="337", user_id=None, message=echo)
    assert await scene.status("sent", wamid=echo.wa_message_id)
    (stored,) = (await scene.store.list_messages(conversation.id, limit=9, cursor=None)).items
    assert (stored.status, stored.timestamp) == (Status.DELIVERED, echo.timestamp)


async def test_a_status_never_touches_another_accounts_message(scene: Scene, new_account: Any) -> None:
    reply, wamid = await sent_reply(scene)
    stranger = Scene(scene.store, await new_account())
    assert not await stranger.status("read", wamid=wamid, key=f"{reply.key}#0")
    assert (await outbound(scene.store, reply)).status is Status.SENT


async def test_a_status_of_a_customers_message_changes_nothing(scene: Scene) -> None:
    asked = message()
    conversation = await scene.receive(asked)
    assert await scene.status("read", wamid=asked.wa_message_id)
    (stored,) = (await scene.store.list_messages(conversation.id, limit=9, cursor=None)).items
    assert stored.status is Status.RECEIVED


async def test_a_status_of_an_unknown_account_is_refused(store: SqlStore) -> None:
    with pytest.raises(NotFound):
        await store.apply_status(
            NOBODY, wa_message_id="w", outbound_key=None, status=Status.SENT, timestamp=NOW, error=None
        )
