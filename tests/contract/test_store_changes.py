"""What a call has changed comes back with its answer, after the commit: whichever function made the change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import asyncpg
import pytest

from app.adapters.postgres_store import PostgresStore
from app.adapters.sql_store import SqlStore
from app.adapters.supabase_store import SupabaseStore
from app.core.http_client import close_http_client, get_http_client
from app.domain.media import MediaState, announced
from app.domain.models import Author, BlockReason, HandoverReason, Json, Status
from tests.support.store_kit import Scene, begin, message, quick_policy, unique

from .conftest import SECRET_KEY


class Heard(list[Json]):
    def types(self) -> list[str]:
        found = [change["type"] for change in self]
        self.clear()
        return found


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture(params=["postgres", "supabase"])
async def store(request: pytest.FixtureRequest, contract_url: str, heard: Heard) -> AsyncIterator[SqlStore]:
    hear: Callable[[Sequence[Json]], None] = heard.extend
    if request.param == "postgres":
        made: SqlStore = PostgresStore(contract_url, policy=quick_policy(), on_changes=hear)
    else:
        url = request.getfixturevalue("rest_url")
        made = SupabaseStore(url, SECRET_KEY, await get_http_client(), policy=quick_policy(), on_changes=hear)
    yield made
    await made.aclose()
    await close_http_client()


async def test_each_change_is_told_once_with_what_it_is_about(scene: Scene, heard: Heard) -> None:
    heard.clear()
    reply = await scene.reply(body="part 0")
    (received,) = heard
    assert (received["type"], received["account_id"]) == ("message.received", scene.account.id)
    assert received["conversation_id"] == reply.conversation_id
    assert received["facts"].keys() == {"message_id", "direction", "author", "status"}  # no words, no number
    heard.clear()
    await begin(scene.store, reply)
    assert heard.types() == []  # what is under way has not gone out
    wamid = unique("wamid")
    await scene.store.complete_part(reply.key, part=0, wamid=wamid, last=True)
    assert heard.types() == ["message.sent"]
    await scene.status(Status.DELIVERED, wamid=wamid)
    assert heard.types() == ["message.status"]
    await scene.status(Status.DELIVERED, wamid=wamid)
    assert heard.types() == []
    await scene.store.set_needs_human(reply.conversation_id, HandoverReason.UNREADABLE)
    assert [(each["type"], each["facts"]) for each in heard] == [
        ("conversation.needs_human", {"needs_human_reason": "unreadable"})
    ]
    heard.clear()
    await scene.store.set_bot(reply.conversation_id, enabled=False)
    assert heard.types() == ["conversation.bot_switched"]
    await scene.store.mark_read(reply.conversation_id)
    assert heard.types() == ["conversation.read"]
    await scene.store.mark_read(reply.conversation_id)
    assert heard.types() == []


async def test_files_are_told_when_they_are_known_of_kept_and_described(scene: Scene, heard: Heard) -> None:
    picture = replace(message(None, kind="image"), payload={"image": {"id": "42", "mime_type": "image/jpeg"}})
    await scene.receive(picture)
    heard.clear()
    told = announced(picture)
    assert told is not None
    (row,) = (await scene.store.open_media(scene.account.id, [told], quoted=[])).files
    known = {"kind": "image", "mime": "image/jpeg", "size": None, "state": "pending", "is_described": False}
    assert [(each["type"], each["facts"]["media"]) for each in heard] == [("message.media", known)]
    heard.clear()
    await scene.store.open_media(scene.account.id, [told], quoted=[])
    assert heard == [], "nothing is new"
    await scene.store.settle_media(row.id, MediaState.KEPT, sha256="0" * 64, size=9, mime="image/jpeg")
    kept = known | {"size": 9, "state": "kept"}
    assert [(each["type"], each["facts"]["media"]) for each in heard] == [("message.media", kept)]
    heard.clear()
    await scene.store.describe_media([(row.id, "A cake", "[image: A cake]")])
    described = kept | {"is_described": True}
    assert [(each["type"], each["facts"]["media"]) for each in heard] == [
        ("message.received", kept), ("message.media", described),
    ]  # fmt: skip
    assert "cake" not in str(heard), "no words"


async def test_profiles_and_blocks_are_told(scene: Scene, heard: Heard) -> None:
    heard.clear()
    account = scene.account
    await scene.store.update_profile(account.id, {"hours": "9-5"})
    assert heard.types() == ["profile.changed"]
    given = {"access_token": account.access_token, "reason": BlockReason.TOKEN_INVALID, "confirm": 1}
    await scene.store.account_refused(account.id, **given)
    assert heard.types() == ["account.blocked"]
    await scene.store.account_accepted(account.id, access_token=account.access_token)
    assert heard.types() == ["account.restored"]


async def test_several_changes_of_one_call_are_told_in_order(scene: Scene, heard: Heard) -> None:
    heard.clear()
    await scene.receive(message("a"), message("b"))
    assert heard.types() == ["message.received", "message.received"]
    reply = await scene.reply(author=Author.HUMAN)
    assert heard.types()[0] == "message.received"
    await scene.store.history(reply.conversation_id, limit=5, exclude=())
    assert heard.types() == []  # nothing of an earlier call in the same session


async def test_a_change_of_very_many_rows_costs_no_memory(scene: Scene, sql: asyncpg.Connection) -> None:
    async with sql.transaction():
        await sql.execute("select chorus.note_change('x', gen_random_uuid(), null, '{}') from generate_series(1, 2000)")
        assert await sql.fetchval("select length(current_setting('chorus.changes'))") < 33_000
    assert await sql.fetchval("select current_setting('chorus.changes', true)") == ""
