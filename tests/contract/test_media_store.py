"""What every `MediaStore` does, and what the database remembers of files."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest

from app.adapters.postgres_media import CHUNK_BYTES, PostgresMediaStore
from app.adapters.sql_store import SqlStore
from app.adapters.supabase_media import SupabaseMediaStore
from app.core.http_client import close_http_client, get_http_client_for_media
from app.domain.errors import NotFound
from app.domain.media import Announced, MediaState
from app.domain.models import Author
from app.domain.ports import MediaStore
from tests.contract.conftest import NewAccount
from tests.support.storage import KEY, StorageStandIn, storage_stand_in
from tests.support.store_kit import Scene, message, unique

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
    await store.expire_media(keep_seconds=30 * 86_400, loose_seconds=86_400, limit=1000)
    await sql.execute("delete from messages where wa_message_id = $1", erased.wa_message_id)
    leftovers = set(await store.media_leftovers(limit=1000))
    assert {first.id, second.id} <= leftovers
    assert await files.size(second.id) is None, "what the database keeps goes with the message"
    await files.delete([first.id, second.id])
    await store.settle_leftovers([first.id, second.id])
    assert not {first.id, second.id} & set(await store.media_leftovers(limit=1000))
    assert first.message_id is not None
    found = await store.get_media(first.message_id)
    assert found is not None
    assert (found.state, found.description) == ("deleted", "A cake")
