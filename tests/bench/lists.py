"""The lists of conversations and the search: 100,000 conversations of one account with 2,000,000 messages, beside 100
accounts of others. The data is made in SQL, its words by the function that replicas call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import asyncpg

from app.adapters.migrations import apply_migrations
from app.adapters.postgres_store import PostgresStore
from app.domain.models import Conversation, ConversationFilter, Page
from tests.bench.machine import Stage
from tests.bench.report import Bar, number, percentile

CONVERSATIONS = 100_000
MESSAGES = 20
OTHERS = 100
ROUNDS = 40
PAGE = 50
LATER_PAGES = 10
BAR_MS = 20.0

WORDS = 20_000
"""Of the vocabulary; the frequency of a word falls with its rank, as in a language."""

_ACCOUNTS = """
insert into whatsapp_accounts (name, slug, phone_number_id, access_token, verify_token)
select 'Account ' || n, 'a' || n, n::text, 'cipher', 'verify' from generate_series(0, $1) n
"""
_CONVERSATIONS = """
with made as (
  insert into contacts (account_id, wa_id, name)
  select a.id, (33600000000 + n * 7919)::text, 'Élodie' || n % 5000 || ' Müller' || n / 50
  from whatsapp_accounts a cross join generate_series(1, case a.slug when 'a0' then $1 else $1 / 100 end) n
  returning id, account_id
)
insert into conversations (account_id, contact_id, bot_enabled, needs_human, unread_count, last_message_at)
select account_id, id, random() > 0.1, random() < 0.05, (random() < 0.3)::integer, now() - random() * interval '90 days'
from made
"""
_MESSAGES = """
insert into messages (account_id, conversation_id, wa_message_id, direction, author, type, text, status, timestamp)
select c.account_id, c.id, 'wamid.' || c.id || n, 'inbound', 'customer', 'text',
  (select string_agg('mot' || floor(exp(random() * ln($2::float8)))::integer, ' ') from generate_series(1, 8 + n % 2))
    || case when random() < 0.5 then ' Bonjour' else '' end, 'received', now()
from conversations c cross join generate_series(1, $1) n
where c.account_id in (select id from whatsapp_accounts where slug = any ($3))
"""
_RARE = """
update messages set text = text || ' Zéphyr' where id in (
  select m.id from conversations c, lateral (select id from messages where conversation_id = c.id limit 1) m
  where c.account_id = $1 order by c.last_message_at limit 20)
"""

FILTERS: Mapping[str, ConversationFilter] = {
    "none": ConversationFilter(),
    "needs_human": ConversationFilter(needs_human=True),
    "needs no person": ConversationFilter(needs_human=False),
    "unread": ConversationFilter(unread=True),
    "read": ConversationFilter(unread=False),
    "bot": ConversationFilter(bot=True),
    "no bot": ConversationFilter(bot=False),
    "all three": ConversationFilter(needs_human=True, unread=True, bot=False),
    "q in half of all messages": ConversationFilter(q="bonjour"),
    "q in 5 % of the conversations": ConversationFilter(q="mot395"),
    "q in 1 % of the conversations": ConversationFilter(q="mot1994"),
    "q in 20 conversations": ConversationFilter(q="zephyr"),
    "q nowhere": ConversationFilter(q="xylophone"),
    "q of two words": ConversationFilter(q="bonjour mot77"),
    "q is a name": ConversationFilter(q="elodie77 muller"),
    "q is a number": ConversationFilter(q="+33 6 07 91 90 00"),
    "q is a part of numbers": ConversationFilter(q="0791"),
    "q in half of all, needs_human": ConversationFilter(needs_human=True, q="bonjour"),
    "q nowhere, needs_human": ConversationFilter(needs_human=True, q="xylophone"),
}


def run(stage: Stage) -> tuple[list[str], list[Bar]]:
    return asyncio.run(_run(stage))


async def _run(stage: Stage) -> tuple[list[str], list[Bar]]:
    await apply_migrations(stage.database_url)
    connection = await asyncpg.connect(stage.database_url)
    store = PostgresStore(stage.database_url)
    try:
        account_id, made = await _make(connection)
        indexed = await _index(connection)
        lines, bars = [f"made in {made:.0f} s, words written down in {indexed:.0f} s"], []
        times: dict[str, list[float]] = {}
        for name, only in FILTERS.items():
            times[f"{name}, first page"] = await _first_pages(store, account_id, only)
            if later := await _later_pages(store, account_id, only):
                times[f"{name}, later pages"] = later
        times["counts"] = await _counts(store, account_id)
        lines += _rows(times)
        bars += [Bar(f"p95, {n}", percentile(t, 95), BAR_MS, " ms", at_most=True) for n, t in times.items()]
        return lines, bars
    finally:
        await store.aclose()
        await connection.close()


async def _make(connection: asyncpg.Connection) -> tuple[str, float]:
    begun = time.monotonic()
    await connection.execute(_ACCOUNTS, OTHERS)
    account_id = await connection.fetchval("select id from whatsapp_accounts where slug = 'a0'")
    # What replicas write a row at a time is written at once here, without the triggers and the checks of foreign keys.
    await connection.execute("set session_replication_role = replica")
    await connection.execute(_CONVERSATIONS, CONVERSATIONS)
    await connection.execute(_MESSAGES, MESSAGES, WORDS, ["a0"])
    await connection.execute(_MESSAGES, 2, WORDS, [f"a{n}" for n in range(1, OTHERS + 1)])
    await connection.execute(_RARE, account_id)
    await connection.execute("reset session_replication_role")
    await connection.execute("insert into search_pending (conversation_id, seq) select id, 0 from conversations")
    await connection.execute("insert into search_pending (conversation_id, from_seq) select id, 0 from conversations")
    await connection.execute("vacuum analyze")
    return str(account_id), time.monotonic() - begun


async def _index(connection: asyncpg.Connection) -> float:
    begun = time.monotonic()
    # An index that is built at the end takes a tenth of the time.
    await connection.execute("drop index conversation_words_found")
    while await connection.fetchval(
        "select (chorus_index_search('{\"rows\": 500, \"messages\": 5000}')->>'ok')::bigint"
    ):
        pass
    await connection.execute(
        "create index conversation_words_found on conversation_words using gin (words) with (fastupdate = off)"
    )
    await connection.execute("vacuum analyze")
    return time.monotonic() - begun


async def _first_pages(store: PostgresStore, account_id: str, only: ConversationFilter) -> list[float]:
    return [(await _timed(store, account_id, only, None))[0] for _ in range(ROUNDS)]


async def _later_pages(store: PostgresStore, account_id: str, only: ConversationFilter) -> list[float]:
    """Up to ten behind the first, four times: as many calls as of first pages."""
    times: list[float] = []
    for _ in range(ROUNDS // LATER_PAGES):
        _, page = await _timed(store, account_id, only, None)
        for _ in range(LATER_PAGES):
            if page.next_cursor is None:
                break
            took, page = await _timed(store, account_id, only, page.next_cursor)
            times.append(took)
    return times


async def _timed(
    store: PostgresStore, account_id: str, only: ConversationFilter, cursor: str | None
) -> tuple[float, Page[Conversation]]:
    begun = time.perf_counter()
    page = await store.list_conversations(account_id, limit=PAGE, cursor=cursor, only=only)
    return (time.perf_counter() - begun) * 1000, page


async def _counts(store: PostgresStore, account_id: str) -> list[float]:
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        await store.count_conversations(account_id, most=1000)
        times.append((time.perf_counter() - begun) * 1000)
    return times


def _rows(times: Mapping[str, Sequence[float]]) -> list[str]:
    width = max(map(len, times))
    head = "lists of one account, ms\n" + f"  {'':{width}}  {'p50':>6}  {'p95':>6}  {'calls':>6}"
    return [head, *(
        f"  {name:{width}}  {number(percentile(of, 50)):>6}  {number(percentile(of, 95)):>6}  {len(of):>6}"
        for name, of in times.items()
    )]  # fmt: skip
