"""What every `MediaStore` does, and what the database remembers of files."""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import asyncpg
import pytest

from app.adapters.postgres_media import CHUNK_BYTES, PostgresMediaStore
from app.adapters.recordings import recording_seconds
from app.adapters.sql_store import SqlStore
from app.adapters.supabase_media import SupabaseMediaStore
from app.core.errors import Unavailable
from app.core.http_client import close_http_client, get_http_client_for_media
from app.domain.errors import NotFound
from app.domain.media import Announced, Media, MediaState
from app.domain.models import Account, Author
from app.domain.ports import MediaSource, MediaStore, Offered
from app.services.attachments import Attachments
from app.services.media_retention import MediaRetention
from tests.contract.conftest import NewAccount
from tests.support.fakes import FakeClock
from tests.support.storage import KEY, StorageStandIn, storage_stand_in
from tests.support.store_kit import Scene, message, unique

T = TypeVar("T")

LONG = bytes(range(256)) * (2 * CHUNK_BYTES // 256) + b"the end"
"""Three chunks."""


async def pieces(content: bytes, length: int = 100_000) -> AsyncIterator[bytes]:
    for at in range(0, len(content), length):
        yield content[at : at + length]


async def whole(files: MediaStore, media_id: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in files.read(media_id, start=start, end=end)])


@pytest.fixture
async def storage() -> AsyncIterator[tuple[str, StorageStandIn]]:
    async with storage_stand_in() as made:
        yield made
        await close_http_client()


@pytest.fixture(params=["chunks", "bucket"])
async def files(request: pytest.FixtureRequest, store: SqlStore, storage: tuple[str, StorageStandIn]) -> MediaStore:
    if request.param == "chunks":
        return PostgresMediaStore(store)
    return SupabaseMediaStore(storage[0], KEY, await get_http_client_for_media())


@pytest.fixture
async def media_id(store: SqlStore, new_account: NewAccount) -> str:
    account = await new_account()
    made = str(uuid.uuid4())
    await store.create_media(made, account_id=account.id, kind="image", mime="image/png", name=None)
    return made


@pytest.mark.parametrize("length", [1, CHUNK_BYTES, len(LONG)], ids=["a byte", "a chunk", "three chunks"])
async def test_what_is_put_is_read_whole_and_in_parts(files: MediaStore, media_id: str, length: int) -> None:
    content = LONG[-length:]
    assert await files.size(media_id) is None
    await files.put(media_id, pieces(content), mime="image/png")
    assert await files.size(media_id) == length
    assert await whole(files, media_id) == content
    for start, end in ((0, 1), (length - 1, length), (length // 2, length), (length // 3, length // 3 + 5)):
        assert await whole(files, media_id, start, end) == content[start:end]
    lengths = [len(piece) async for piece in files.read(media_id)]
    assert all(each % 3 == 0 for each in lengths[:-1]), "so that base64 can be made piece by piece"


async def test_a_put_replaces_and_a_delete_leaves_nothing(files: MediaStore, media_id: str) -> None:
    await files.put(media_id, pieces(LONG), mime="image/png")
    await files.put(media_id, pieces(b"shorter"), mime="image/png")
    assert (await files.size(media_id), await whole(files, media_id)) == (7, b"shorter")
    for _ in range(2):
        await files.delete([media_id])
    assert await files.size(media_id) is None
    with pytest.raises(NotFound):
        await whole(files, media_id)


async def test_a_file_that_is_cut_off_is_never_taken_for_the_whole(files: MediaStore, media_id: str) -> None:
    async def cut_off() -> AsyncIterator[bytes]:
        yield LONG[: CHUNK_BYTES + 10]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await files.put(media_id, cut_off(), mime="image/png")
    assert await files.size(media_id) != len(LONG)
    await files.put(media_id, pieces(LONG), mime="image/png")
    assert await whole(files, media_id) == LONG


async def test_the_bucket_is_private_and_made_once_and_its_trouble_is_repeated(
    store: SqlStore, storage: tuple[str, StorageStandIn]
) -> None:
    url, stand_in = storage
    files = SupabaseMediaStore(url, KEY, await get_http_client_for_media())
    stand_in.fail_next = 1
    await files.put("a", pieces(b"one"), mime="image/png")
    await files.put("b", pieces(b"two"), mime="image/png")
    assert stand_in.buckets == {"chorus-media": (False, {"a": b"one", "b": b"two"})}


async def test_a_worker_that_is_killed_leaves_nothing_of_a_file_on_its_machine(
    storage: tuple[str, StorageStandIn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[list[Path]] = []

    async def looked() -> AsyncIterator[bytes]:
        yield b"one"
        seen.append(list(tmp_path.iterdir()))
        yield b"two"

    await SupabaseMediaStore(storage[0], KEY, await get_http_client_for_media()).put("a", looked(), mime="image/png")
    assert seen == [[]], "a file without a name goes with its process"
    assert storage[1].buckets["chorus-media"][1] == {"a": b"onetwo"}


@dataclass
class Host(MediaSource):
    """Hands over `content`, whatever was announced; before its end, `meanwhile` happens."""

    content: bytes
    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def fetch_media(
        self, account: Account, source_id: str, *, max_bytes: int, take: Callable[[Offered], Awaitable[T]]
    ) -> T:
        async def handed_over() -> AsyncIterator[bytes]:
            async for piece in pieces(self.content):
                yield piece
            if self.meanwhile is not None:
                await self.meanwhile()

        return await take(Offered("image/png", None, None, handed_over()))

    def media_blocked_seconds(self) -> float:
        return 0.0


@dataclass
class Fetch:
    """One file of a customer on its way from `host` into `files`."""

    store: SqlStore
    files: MediaStore
    scene: Scene
    host: Host
    told: Announced

    async def run(self) -> Media:
        places = Attachments(self.store, self.files, self.host, recording_seconds, max_bytes=10**7, places=1)
        found = await places.collect(self.scene.account, [self.told], [], datetime.now(UTC), may_fetch=True)
        return found.files[self.told.wa_message_id]

    async def row(self) -> Media:
        (found,) = (await self.store.open_media(self.scene.account.id, [self.told], quoted=[])).files
        return found


@pytest.fixture
async def fetch(store: SqlStore, files: MediaStore, scene: Scene) -> Fetch:
    asked = message(None, kind="image")
    await scene.receive(asked)
    told = Announced(asked.wa_message_id, "m", "image", "image/png", hashlib.sha256(LONG).hexdigest(), None)
    return Fetch(store, files, scene, Host(LONG), told)


class Later:
    """The caretaker's rounds: at once, and whenever something is due again."""

    def __init__(self, sql: asyncpg.Connection, retention: MediaRetention, clock: FakeClock) -> None:
        self._sql, self._retention, self._clock = sql, retention, clock

    async def round(self) -> None:
        self._clock.advance(61)
        while await self._retention.tidy():
            pass

    async def due(self, media_id: str) -> timedelta | None:
        """Time goes on until the file is to be deleted again. Returns for how long it has been a leftover; `None`: it
        is none any more."""
        age = await self._sql.fetchval(
            "update media_leftovers set created_at = created_at - (due_at - now()), due_at = now()"
            " where media_id = $1 returning now() - created_at",
            uuid.UUID(media_id),
        )
        assert age is None or isinstance(age, timedelta)
        return age


@pytest.fixture
def later(store: SqlStore, files: MediaStore, sql: asyncpg.Connection) -> Later:
    clock = FakeClock()
    return Later(sql, MediaRetention(store, files, days=30, clock=clock), clock)


@pytest.mark.parametrize("killed", [False, True], ids=["the worker lives", "the worker is killed"])
async def test_a_file_whose_customer_is_erased_while_it_is_on_its_way_is_nowhere(
    fetch: Fetch, later: Later, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, *, killed: bool
) -> None:
    class Killed(BaseException): ...

    async def kill(*_: object, **__: object) -> bool:
        raise Killed

    row = await fetch.row()

    async def erase() -> None:
        await sql.execute("delete from messages where wa_message_id = $1", fetch.told.wa_message_id)
        await later.round()

    fetch.host.meanwhile = erase
    if killed:
        monkeypatch.setattr(fetch.store, "settle_media", kill)
        with pytest.raises((Killed, Unavailable)):  # the database takes no chunk of a file that it does not know
            await fetch.run()
        assert (await later.due(row.id) or timedelta.max) <= timedelta(minutes=2), "looked at again, and soon"
        await later.round()
    else:
        is_in_database = isinstance(fetch.files, PostgresMediaStore)
        try:
            assert (await fetch.run()).state == MediaState.DELETED
        except Unavailable:
            assert is_in_database
    assert await fetch.files.size(row.id) is None


async def test_a_leftover_is_deleted_again_until_no_upload_can_be_on_its_way(
    fetch: Fetch, later: Later, sql: asyncpg.Connection
) -> None:
    row = await fetch.row()
    await sql.execute("delete from messages where wa_message_id = $1", fetch.told.wa_message_id)
    ages: list[timedelta] = []
    while (age := await later.due(row.id)) is not None:
        await fetch.files.put(row.id, pieces(b"late"), mime="image/png")
        await later.round()
        assert await fetch.files.size(row.id) is None, age
        ages.append(age)
        assert len(ages) < 20
    assert ages[-1] > timedelta(days=1)
    assert all(now <= max(3 * before, timedelta(minutes=3)) for before, now in pairwise(ages)), ages


@pytest.mark.parametrize("state", [MediaState.TOO_LARGE, MediaState.FAILED])
async def test_what_is_never_kept_leaves_none_of_its_bytes(fetch: Fetch, later: Later, state: MediaState) -> None:
    row = await fetch.row()
    await fetch.files.put(row.id, pieces(LONG), mime="image/png")  # of an upload that nothing was heard of
    assert await fetch.store.settle_media(row.id, state)
    await later.round()
    assert await fetch.files.size(row.id) is None
    assert not await fetch.store.put_media_chunk(row.id, 0, b"late"), "a worker that lost its conversation"
    assert not await fetch.store.settle_media(row.id, MediaState.KEPT, sha256="a" * 64, size=4), "deletes what it put"
    assert (await fetch.row()).state == state


async def test_forged_bytes_are_never_whole_in_the_store(fetch: Fetch, later: Later) -> None:
    fetch.host.content = LONG + b"?"
    assert (await fetch.run()).state == MediaState.FORGED
    row = await fetch.row()
    assert await fetch.files.size(row.id) in (None, 2 * CHUNK_BYTES), "the bucket has none of it"
    await later.round()
    assert (row.state, await fetch.files.size(row.id)) == (MediaState.FORGED, None)


async def test_a_file_that_was_never_settled_has_its_time_like_the_others(
    fetch: Fetch, later: Later, sql: asyncpg.Connection
) -> None:
    row = await fetch.row()
    await fetch.files.put(row.id, pieces(LONG), mime="image/png")
    await later.round()
    assert await fetch.files.size(row.id) == len(LONG), "the next worker finds it"
    await sql.execute("update media set created_at = now() - interval '31 days' where id = $1", uuid.UUID(row.id))
    await later.round()
    assert ((await fetch.row()).state, await fetch.files.size(row.id)) == (MediaState.FAILED, None)


async def test_a_persons_file_that_becomes_no_message_goes_within_the_hour(
    store: SqlStore, files: MediaStore, later: Later, media_id: str, sql: asyncpg.Connection
) -> None:
    await files.put(media_id, pieces(LONG), mime="image/png")
    await store.settle_media(media_id, MediaState.KEPT, sha256="a" * 64, size=len(LONG))
    await later.round()
    assert await files.size(media_id) == len(LONG)
    await sql.execute("update media set created_at = now() - interval '61 minutes' where id = $1", uuid.UUID(media_id))
    await later.round()
    assert await files.size(media_id) is None
    assert await store.media_to_send(media_id) is None


async def test_each_file_of_a_message_has_one_row_however_often_its_fetch_begins(store: SqlStore, scene: Scene) -> None:
    asked, quoted = message(None, kind="image"), message("What does it cost?")
    await scene.receive(quoted, asked)
    digest = hashlib.sha256(b"x").hexdigest()
    told = Announced(asked.wa_message_id, "m1", "image", "image/jpeg", digest, None)
    for count in (1, 2):
        opened = await store.open_media(scene.account.id, [told], quoted=[quoted.wa_message_id, "unknown"])
        (file,) = opened.files
        assert (file.wa_message_id, file.state, file.opened, file.sha256) == (
            asked.wa_message_id, "pending", count, digest,
        )  # fmt: skip
        assert opened.quoted == {quoted.wa_message_id: "What does it cost?"}
    await store.settle_media(file.id, MediaState.KEPT, sha256=digest, size=1, mime="image/jpeg")
    await store.settle_media(file.id, MediaState.FAILED)
    assert file.message_id is not None
    found = await store.get_media(file.message_id)
    assert found is not None
    assert (found.state, found.size, found.opened) == ("kept", 1, 2), "kept stays kept"
    assert not await store.settle_media(str(uuid.uuid4()), MediaState.KEPT, sha256=digest, size=1), "erased meanwhile"
    assert not await store.put_media_chunk(file.id, 0, b"late"), "a worker that lost its conversation writes nothing"


async def test_what_a_file_says_becomes_its_messages_text(store: SqlStore, scene: Scene) -> None:
    asked = message(None, kind="audio")
    conversation = await scene.receive(asked)
    told = Announced(asked.wa_message_id, "m1", "audio", "audio/ogg", None, None, is_voice=True)
    (file,) = (await store.open_media(scene.account.id, [told], quoted=[])).files
    await store.describe_media([(file.id, "Do you have rolls?", "[voice message] Do you have rolls?")])
    (stored,) = (await store.list_messages(conversation.id, limit=10, cursor=None)).items
    assert stored.text == "[voice message] Do you have rolls?"
    assert [turn.text for turn in await store.history(conversation.id, limit=10, exclude=())] == [stored.text]
    found = (await store.media_of([stored.id, str(uuid.uuid4())]))[stored.id]
    assert (found.description, found.mime) == ("Do you have rolls?", "audio/ogg")


async def test_a_persons_file_belongs_to_its_reply_and_then_to_its_message(
    store: SqlStore, scene: Scene, media_id: str
) -> None:
    conversation = await scene.receive()
    key, other = unique("human"), str(uuid.uuid4())
    await store.settle_media(media_id, MediaState.KEPT, sha256="a" * 64, size=3)
    reply, file = await store.open_file_reply(conversation.id, key=key, body="look", media_id=media_id, sent_by="u")
    assert (reply.media_id, reply.body, reply.author) == (media_id, "look", Author.HUMAN)
    assert file is not None
    await store.create_media(other, account_id=scene.account.id, kind="image", mime="image/png", name=None)
    again, same = await store.open_file_reply(conversation.id, key=key, body="look", media_id=other, sent_by="u")
    assert same is not None
    assert (again.media_id, same.id) == (media_id, media_id), "a reply keeps the file that it has"
    await store.begin_part(reply.key, fence=1, part=0, parts=1, text="look")
    newest = (await store.list_messages(conversation.id, limit=1, cursor=None)).items[0]
    assert newest.type == "image"
    found = await store.get_media(newest.id)
    assert found is not None
    assert (found.id, found.conversation_id) == (media_id, conversation.id)
    assert set(await store.media_of([newest.id])) == {newest.id}


async def test_old_files_go_their_descriptions_stay_and_a_deleted_message_leaves_its_file_to_be_deleted(
    store: SqlStore, scene: Scene, sql: asyncpg.Connection
) -> None:
    old, erased = message(None, kind="image"), message(None, kind="image")
    await scene.receive(old, erased)
    told = [Announced(each.wa_message_id, "m", "image", "image/png", None, None) for each in (old, erased)]
    opened = {f.wa_message_id: f for f in (await store.open_media(scene.account.id, told, quoted=[])).files}
    files = PostgresMediaStore(store)
    for file in opened.values():
        await files.put(file.id, pieces(b"bytes"), mime="image/png")
        await store.settle_media(file.id, MediaState.KEPT, sha256="b" * 64, size=5)
        await store.describe_media([(file.id, "A cake", "[image: A cake]")])
    first, second = opened[old.wa_message_id], opened[erased.wa_message_id]
    await sql.execute("update media set created_at = now() - interval '31 days' where id = $1", uuid.UUID(first.id))
    await store.expire_media(keep_seconds=30 * 86_400, loose_seconds=86_400, limit=100_000)
    await sql.execute("delete from messages where wa_message_id = $1", erased.wa_message_id)
    leftovers = set(await store.media_leftovers(limit=100_000))
    assert {first.id, second.id} <= leftovers
    assert await files.size(second.id) is None, "what the database keeps goes with the message"
    await files.delete([first.id, second.id])
    await store.settle_leftovers([first.id, second.id])
    assert not {first.id, second.id} & set(await store.media_leftovers(limit=100_000))
    assert first.message_id is not None
    found = await store.get_media(first.message_id)
    assert found is not None
    assert (found.state, found.description) == ("deleted", "A cake")
