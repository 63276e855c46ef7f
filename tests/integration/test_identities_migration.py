"""What migration 20261127000021 does to rows of earlier versions, and what the previous version finds after it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from app.adapters.migrations import MIGRATIONS, apply_migrations

REPAIRED_BY = "20261127000020"
PLUS, DIGITS = "+34 610 000 016", "34610000016"


class Before:
    """A database as the previous version left it."""

    def __init__(self, url: str, sql: asyncpg.Connection) -> None:
        self.url, self.sql, self.account = url, sql, ""

    async def contact(self, wa_id: str | None, user_id: str | None = None, *, bot: bool = True) -> str:
        """Returns the id of its conversation."""
        contact = await self.sql.fetchval(
            "insert into contacts (account_id, wa_id, user_id) values ($1, $2, $3) returning id",
            self.account, wa_id, user_id,
        )  # fmt: skip
        found = await self.sql.fetchval(
            "insert into conversations (account_id, contact_id, bot_enabled, unread_count) values ($1, $2, $3, 1)"
            " returning id",
            self.account, contact, bot,
        )  # fmt: skip
        return str(found)

    async def message(self, conversation: str, wamid: str, at: str = "2026-11-26T10:00:00Z", **payload: Any) -> None:
        await self.sql.execute(
            "insert into messages (account_id, conversation_id, wa_message_id, direction, author, type, text, payload,"
            " status, timestamp)"
            " values ($1, $2, $3, 'inbound', 'customer', 'text', $3, $4, 'received', $5::text::timestamptz)",
            self.account, conversation, wamid, orjson.dumps(payload).decode(), at,
        )  # fmt: skip
        await self.sql.execute(
            "update conversations set last_inbound_at = greatest(last_inbound_at, $2::text::timestamptz) where id = $1",
            conversation, at,
        )  # fmt: skip

    async def call(self, function: str, p: dict[str, Any]) -> Any:
        answer = await self.sql.fetchval(f"select {function}($1)", orjson.dumps(p).decode())
        return orjson.loads(answer)["ok"]

    async def upgrade(self) -> None:
        await apply_migrations(self.url)

    async def contacts(self) -> list[tuple[Any, ...]]:
        rows = await self.sql.fetch(
            "select c.wa_id, c.user_id, c.group_id, v.bot_enabled, v.unread_count, v.last_inbound_at, v.id::text,"
            " (select array_agg(m.text order by m.text) from messages m where m.conversation_id = v.id) as texts"
            " from contacts c join conversations v on v.contact_id = c.id order by c.created_at, c.id"
        )
        return [tuple(row) for row in rows]


@pytest.fixture
async def before(postgres_url: str, tmp_path: Path) -> AsyncIterator[Before]:
    earlier = tmp_path / "migrations"
    earlier.mkdir()
    for file in MIGRATIONS.iterdir():
        if file.name < REPAIRED_BY:
            shutil.copy(str(file), earlier / file.name)
    await apply_migrations(postgres_url, earlier)
    sql = await asyncpg.connect(postgres_url, timeout=5, command_timeout=5)
    made = Before(postgres_url, sql)
    made.account = await sql.fetchval(
        "insert into whatsapp_accounts (name, slug, phone_number_id, access_token, verify_token)"
        " values ('a', 'a', '1', 'x', 'y') returning id"
    )
    yield made
    await sql.close()


async def test_a_number_with_signs_becomes_digits(before: Before) -> None:
    conversation = await before.contact(PLUS)
    await before.upgrade()
    ((wa_id, *_, found, _),) = await before.contacts()
    assert (wa_id, found) == (DIGITS, conversation)


@pytest.mark.parametrize("with_signs_first", [True, False])
async def test_two_contacts_with_one_number_become_one(before: Before, *, with_signs_first: bool) -> None:
    numbers = [PLUS, DIGITS] if with_signs_first else [DIGITS, PLUS]
    for number in numbers:
        await before.message(await before.contact(number, bot=number == DIGITS), number)
    await before.upgrade()
    ((wa_id, _, _, bot, unread, _, _, texts),) = await before.contacts()
    assert (wa_id, bot, unread, texts) == (DIGITS, False, 2, sorted(numbers))


async def test_user_ids_are_kept_and_two_of_them_are_two_people(before: Before) -> None:
    await before.contact(DIGITS, "ES.1")
    await before.contact(PLUS, "ES.2")
    await before.contact("+331", "FR.1")
    await before.contact("331")
    await before.upgrade()
    assert [row[:2] for row in await before.contacts()] == [(DIGITS, "ES.1"), (None, "ES.2"), ("331", "FR.1")]


async def test_group_texts_leave_the_private_conversation_and_close_the_window_they_opened(before: Before) -> None:
    conversation = await before.contact(DIGITS)
    await before.message(conversation, "private", at="2026-11-20T10:00:00Z")
    await before.message(conversation, "in the group", group_id="g1")
    await before.upgrade()
    private, group = sorted(await before.contacts(), key=lambda row: row[2] is not None)
    assert (private[7], private[5].isoformat()) == (["private"], "2026-11-20T10:00:00+00:00")
    assert (group[2], group[3], group[5], group[7]) == ("g1", False, None, ["in the group"])


async def test_a_window_open_until_2100_is_mended(before: Before) -> None:
    ahead, alone = await before.contact("331"), await before.contact("332")
    await before.message(ahead, "real", at="2026-11-20T10:00:00Z")
    await before.message(alone, "future", at="2100-01-01T00:00:00Z")
    await before.sql.execute("update conversations set last_inbound_at = '2100-01-01' where id = $1", ahead)
    await before.upgrade()
    now = await before.sql.fetchval("select now()")
    first, second = (row[5] for row in await before.contacts())
    assert first.isoformat() == "2026-11-20T10:00:00+00:00"
    assert second <= now


async def test_a_reply_that_the_previous_version_opened_is_found(before: Before) -> None:
    """And its calls, which name neither account nor card, work on."""
    conversation = await before.contact(DIGITS)
    reply = {"conversation_id": conversation, "key": "wamid.1", "author": "bot", "covers": ["wamid.1"], "body": "hi"}
    await before.call("chorus_open_reply", {**reply, "fence": 1})
    await before.upgrade()
    found = await before.call("chorus_open_reply", {**reply, "fence": 2})
    assert (found["key"], found["fence"], found["body"]) == ("wamid.1", 2, "hi")
    told = {"wa_message_id": "wamid.2", "type": "text", "text": "a", "timestamp": "2026-11-26T10:00:00Z", "payload": {}}
    stored = await before.call(
        "chorus_record_inbound",
        {"account_id": str(before.account), "wa_id": f"+{DIGITS}", "user_id": None, "name": None, "messages": [told]},
    )
    assert stored["conversation"]["id"] == conversation


async def test_the_repair_may_be_applied_again(before: Before) -> None:
    await before.message(await before.contact(PLUS), "in the group", group_id="g1")
    await before.upgrade()
    once = await before.contacts()
    (repair,) = [file for file in MIGRATIONS.iterdir() if file.name.startswith("20261127000021")]
    await before.sql.execute(repair.read_text())
    assert await before.contacts() == once
