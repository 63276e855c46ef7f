"""Lists with filters, their counts, and the search, on every store."""

from __future__ import annotations

import uuid

import asyncpg
import pytest

from app.adapters.sql_store import SqlStore
from app.domain.models import Conversation, ConversationFilter, HandoverReason
from tests.support.store_kit import NewAccount, Scene, message


async def index(store: SqlStore) -> None:
    while await store.index_search(rows=200, messages=2000):
        pass


async def listed(scene: Scene, *, size: int = 10, **only: object) -> list[str]:
    """The numbers of the contacts, page by page."""
    numbers: list[str] = []
    cursor = None
    while True:
        page = await scene.store.list_conversations(
            scene.account.id, limit=size, cursor=cursor, only=ConversationFilter(**only)
        )
        numbers += [conversation.contact.wa_id or "" for conversation in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return numbers


async def found(scene: Scene, q: str) -> list[str]:
    await index(scene.store)
    return await listed(scene, q=q)


async def say(scene: Scene, wa_id: str, name: str, *texts: str) -> Conversation:
    inbound = await scene.store.record_inbound(
        scene.account.id, wa_id=wa_id, user_id=None, name=name, messages=[message(text) for text in texts]
    )
    return inbound.conversation


@pytest.fixture
async def three(scene: Scene) -> list[Conversation]:
    """331: a person is called, unread, bot on · 332: read, bot off · 333: unread, bot off. 333 is the newest."""
    made = [await scene.receive(wa_id=number) for number in ("331", "332", "333")]
    await scene.store.set_needs_human(made[0].id, HandoverReason.UNREADABLE)
    await scene.store.mark_read(made[1].id)
    for conversation in made[1:]:
        await scene.store.set_bot(conversation.id, enabled=False)
    return made


async def test_filters_combine(scene: Scene, three: list[Conversation], new_account: NewAccount) -> None:
    assert await listed(scene) == ["333", "332", "331"]
    assert await listed(scene, needs_human=True) == ["331"]
    assert await listed(scene, needs_human=False) == ["333", "332"]
    assert await listed(scene, unread=True) == ["333", "331"]
    assert await listed(scene, unread=False) == ["332"]
    assert await listed(scene, bot=True) == ["331"]
    assert await listed(scene, bot=False, unread=True) == ["333"]
    assert await listed(scene, bot=True, needs_human=False) == []
    scene.account = await new_account()
    assert await listed(scene, unread=True) == []


async def test_the_lists_are_counted_up_to_a_bound(scene: Scene, three: list[Conversation]) -> None:
    counts = await scene.store.count_conversations(scene.account.id, most=1000)
    assert (counts.needs_human, counts.unread, counts.bot, counts.all, counts.counted_to) == (1, 2, 1, 3, 1000)
    bounded = await scene.store.count_conversations(scene.account.id, most=2)
    assert (bounded.unread, bounded.all, bounded.counted_to) == (2, 2, 2)


async def test_two_calls_at_once_take_no_words_from_each_other(scene: Scene, sql: asyncpg.Connection) -> None:
    await say(scene, "331", "Ada", "croissant")
    async with sql.transaction():  # of a caller that has given up: it goes on all the same
        await sql.fetchval("select public.chorus_index_search($1::jsonb)", '{"rows": 200, "messages": 2000}')
        await say(scene, "331", "Ada", "baguette")
        assert await scene.store.index_search(rows=200, messages=2000) == 0
    assert await found(scene, "croissant") == ["331"]
    assert await found(scene, "baguette") == ["331"]


async def test_a_page_of_many_conversations_leaves_what_is_held_and_puts_away_what_is_gone(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    await index(scene.store)
    held = await say(scene, "331", "Ada", "croissant")
    for number, name in (("332", "Bob"), ("333", "Cléo")):
        await say(scene, number, name, "Crème brûlée, ’croissant’", "baguette")
    await sql.execute("insert into search_pending (conversation_id, seq) values ($1, 0)", uuid.uuid4())
    async with sql.transaction():  # as while it is erased
        await sql.execute("select from conversations where id = $1 for update", uuid.UUID(held.id))
        assert await scene.store.index_search(rows=200, messages=2000) == 7  # two contacts, four messages, one gone
        assert await scene.store.index_search(rows=200, messages=2000) == 0
        assert await sql.fetchval("select array_agg(conversation_id::text) from search_pending") == [held.id] * 2
        assert not await sql.fetchval(
            "select count(*) from conversation_words where conversation_id = $1", uuid.UUID(held.id)
        )
    assert await scene.store.index_search(rows=1, messages=2000) == 1
    assert await found(scene, "croissant") == ["333", "332", "331"]
    assert await found(scene, "brulee baguette") == ["333", "332"]
    assert await found(scene, "cleo") == ["333"]
    assert await found(scene, "Ada") == await listed(scene, q="331") == ["331"]


async def test_a_message_whose_words_are_known_writes_no_words(scene: Scene, sql: asyncpg.Connection) -> None:
    async def written() -> str:
        await index(scene.store)
        version: str = await sql.fetchval(
            "select xmin::text from conversation_words where conversation_id = $1 and part = 1",
            uuid.UUID(conversation.id),
        )
        return version

    conversation = await say(scene, "331", "Ada", "Merci beaucoup")
    first = await written()
    await say(scene, "331", "Ada", "MERCI !", "👍")
    assert await written() == first
    await say(scene, "331", "Ada", "merci bien")
    assert await written() != first
    assert await found(scene, "beaucoup merci bien") == ["331"]


async def test_more_messages_than_a_page_may_have_wait_for_the_next_one(scene: Scene) -> None:
    await index(scene.store)
    for number in ("331", "332", "333"):
        await say(scene, number, "Ada", "croissant", "baguette")
    assert await scene.store.index_search(rows=200, messages=3) == 6  # two conversations
    assert await found(scene, "baguette") == ["333", "332", "331"]


async def test_a_message_that_gains_words_while_its_long_conversation_is_taken_in_is_found(
    scene: Scene, sql: asyncpg.Connection
) -> None:
    conversation = await say(scene, "331", "Ada", "croissant")
    await index(scene.store)
    # As after the first page of a conversation of more than 1,000 messages.
    await sql.execute(
        "insert into search_pending (conversation_id, from_seq) select $1, max(seq) + 1 from messages",
        uuid.UUID(conversation.id),
    )
    await sql.execute(
        "update messages set text = text || ' brioche' where conversation_id = $1", uuid.UUID(conversation.id)
    )
    assert await found(scene, "brioche") == ["331"]


async def test_pages_of_a_filter_hold_while_messages_come(scene: Scene) -> None:
    for n in range(5):
        await say(scene, f"33{n}", "Ada", "croissant")
    await index(scene.store)
    only = ConversationFilter(unread=True, q="croissant")
    first = await scene.store.list_conversations(scene.account.id, limit=2, cursor=None, only=only)
    assert [c.contact.wa_id for c in first.items] == ["334", "333"]
    await say(scene, "334", "Ada", "another croissant")
    await say(scene, "335", "Ada", "croissant, too")
    second = await scene.store.list_conversations(scene.account.id, limit=2, cursor=first.next_cursor, only=only)
    last = await scene.store.list_conversations(scene.account.id, limit=2, cursor=second.next_cursor, only=only)
    assert [c.contact.wa_id for c in (*second.items, *last.items)] == ["332", "331", "330"]
    assert last.next_cursor is None


async def test_a_search_knows_names_numbers_and_messages_without_accents_and_capitals(scene: Scene) -> None:
    await say(scene, "33612345678", "Élodie Müller", "Deux CRÈMES brûlées, s’il vous plaît 🙏")
    await say(scene, "5511987654321", "João", "Não, obrigado. Pedido 4711!", "Straße, Œuvre")
    await say(scene, "201001234567", "فاطمة", "مُرحبًا")
    elodie, joao, fatma = "33612345678", "5511987654321", "201001234567"
    for q, numbers in {
        "elodie": [elodie], "MULL": [elodie], "ÉLODIE müller": [elodie], "creme brulee": [elodie], "plait": [elodie],
        "joão": [joao], "nao": [joao], "4711": [joao], "strasse": [joao], "oeuvre": [joao], "obrigado!": [joao],
        "+33 6 12 34 56 78": [elodie], "06 12 34 56 78": [elodie], "1234567": [fatma, elodie], "12345678": [elodie],
        "مرحبا": [fatma], "فاطمه": [], "فاطمة": [fatma], "lodie": [], "creme nao": [], "?!": [], "it's 'x' & (y": [],
    }.items():  # fmt: skip
        assert await found(scene, q) == numbers, q
    assert await listed(scene, q="elodie", unread=False) == []


async def test_no_account_finds_what_another_one_wrote(scene: Scene, new_account: NewAccount) -> None:
    await say(scene, "331", "Ada", "zephyr")
    mine, scene.account = scene.account, await new_account()
    assert await found(scene, "zephyr") == []
    scene.account = mine
    assert await found(scene, "zephyr") == ["331"]


async def test_what_changes_is_found_by_its_new_words_only(scene: Scene) -> None:
    conversation = await say(scene, "331", "Ada", "old words")
    assert await found(scene, "old") == ["331"]
    await say(scene, "331", "Grace")
    reply = await scene.reply(body="An answer")
    await scene.store.begin_part(reply.key, fence=1, part=0, parts=1, text="An answer")
    assert await found(scene, "ada") == [scene.wa_id]
    assert await found(scene, "grace") == ["331"]
    assert await found(scene, "answer") == [scene.wa_id]
    assert await found(scene, "old") == [conversation.contact.wa_id]


async def test_an_edit_and_a_merge_change_what_is_found(scene: Scene, sql: asyncpg.Connection) -> None:
    store, account_id = scene.store, scene.account.id
    by_number = (await say(scene, "331", "Ada", "by number")).id
    await store.record_inbound(account_id, wa_id=None, user_id="FR.1", name=None, messages=[message("by user")])
    await index(store)
    await sql.execute("update messages set text = 'mended' where conversation_id = $1::uuid", by_number)
    assert await found(scene, "number") == []
    assert await found(scene, "mended") == ["331"]
    await store.record_inbound(account_id, wa_id="331", user_id="FR.1", name=None, messages=[])
    assert await found(scene, "mended") == ["331"]
    assert await found(scene, "user") == ["331"]


async def test_a_long_conversation_is_found_whole(scene: Scene, sql: asyncpg.Connection) -> None:
    """More messages than one call takes in, and more words than one part has."""
    conversation = await say(scene, "331", "Ada", "first")
    await sql.execute(
        "insert into messages (account_id, conversation_id, direction, author, type, text, status, timestamp)"
        " select $1::uuid, $2::uuid, 'inbound', 'customer', 'text', 'word' || n, 'received', now()"
        " from generate_series(1, 2100) n",
        scene.account.id, conversation.id,
    )  # fmt: skip
    await sql.execute("delete from search_pending where conversation_id = $1::uuid", conversation.id)
    await sql.execute("insert into search_pending (conversation_id, from_seq) values ($1::uuid, 0)", conversation.id)
    for q in ("first", "word1", "word1050", "word2100"):
        assert await found(scene, q) == ["331"], q
    assert await found(scene, "first word2100") == [], "a search is for words that stand together"


async def test_a_rare_word_is_found_behind_many_newer_conversations(scene: Scene, sql: asyncpg.Connection) -> None:
    await say(scene, "331", "Ada", "zephyr")
    await sql.execute(
        "with made as (insert into contacts (account_id, wa_id, name) select $1::uuid, 'n' || n, 'Bob'"
        " from generate_series(1, 1600) n returning id)"
        " insert into conversations (account_id, contact_id, bot_enabled) select $1::uuid, id, true from made",
        scene.account.id,
    )  # fmt: skip
    assert await found(scene, "zephyr") == ["331"]
    assert await listed(scene, q="zephyr", bot=False) == []
    assert len(await listed(scene, size=200, q="bob")) == 1600
