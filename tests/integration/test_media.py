"""The bot hears and sees: files of customers on their way to an answer, and what gets in their way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import app.sandbox
from app.adapters.postgres_media import PostgresMediaStore
from app.adapters.recordings import recording_seconds
from app.demo.bakery import BAKERY
from app.domain.media import announced
from app.domain.models import ConversationFilter, Message
from app.domain.webhook import to_inbound
from app.sandbox import webhooks as wa
from app.services.attachments import Attachments
from app.services.media_retention import MediaRetention
from app.services.search_index import SearchIndex
from tests.support.fakes import FakeClock
from tests.support.office import MakeOffice, Office
from tests.support.patience import Within

FILES = Path(app.sandbox.__file__).parent / "files"
VOICE = (FILES / "vegan.ogg").read_bytes()
PHOTO = (FILES / "strawberry-cake.jpg").read_bytes()
PDF = (FILES / "order.pdf").read_bytes()
MIME = {"audio": "audio/ogg; codecs=opus", "image": "image/jpeg", "document": "application/pdf", "video": "video/mp4"}


async def file(
    office: Office, person: wa.Person, kind: str, content: bytes, says: str | None = None, **more: Any
) -> Any:
    mime = more.pop("mime_type", MIME[kind])
    media_id = await office.control.upload(content, mime, says=says)
    return wa.file(person, kind, media_id, content, mime_type=mime, **more)


async def answer(office: Office, person: wa.Person, *messages: Any) -> str:
    """The one text that came of it."""
    before = len(await office.sends(person))
    await office.receive(person, *messages)
    await office.until_idle()
    (send,) = (await office.sends(person))[before:]
    return str(send["text"])


async def stored(office: Office) -> list[Message]:
    """Of the only conversation, the oldest first."""
    (found,) = (await office.store.list_conversations(office.account.id, limit=2, cursor=None)).items
    return [*(await office.store.list_messages(found.id, limit=50, cursor=None)).items][::-1]


async def needs_human(office: Office) -> str | None:
    (found,) = (await office.store.list_conversations(office.account.id, limit=2, cursor=None)).items
    return found.needs_human_reason


async def test_a_voice_note_is_answered_on_what_it_says_and_its_words_stand_in_the_history(
    make_office: MakeOffice,
) -> None:
    office = await make_office()
    person = office.person()
    said = await answer(office, person, await file(office, person, "audio", VOICE, voice=True))
    assert "apple turnover" in said
    (asked,) = await office.control.record(kind="generate")
    parts = asked["body"]["contents"][-1]["parts"]
    assert parts[0] == {"text": "[file 1: voice message]"}
    assert parts[1]["inlineData"]["mimeType"] == "audio/ogg"
    assert (await stored(office))[0].text == "[voice message] Do you have vegan pastries?"
    await answer(office, person, wa.text(person, "And on Sunday, are you open?"))
    turns = (await office.control.record(kind="generate"))[-1]["body"]["contents"]
    assert turns[0]["parts"] == [{"text": "[voice message] Do you have vegan pastries?"}], "no second look at the file"
    assert len(await office.control.record(kind="download")) == 1
    await SearchIndex(office.store).update()
    spoken = ConversationFilter(q="vegan pastries")
    assert (await office.store.list_conversations(office.account.id, limit=2, cursor=None, only=spoken)).items


async def test_several_files_and_texts_of_a_run_are_one_question_in_their_order(make_office: MakeOffice) -> None:
    office = await make_office(debounce_seconds=0.4)
    person = office.person()
    quoted = wa.text(person, "We want a cake for eight")
    await answer(office, person, quoted)
    image = await file(office, person, "image", PHOTO, caption="This one", context={"id": quoted["id"]})
    document = await file(office, person, "document", PDF, filename="order.pdf")
    await office.receive(person, wa.text(person, "Hello"), image)
    await office.receive(person, document)
    await office.until_idle()
    said = (await office.sends(person))[-1]["text"]
    assert "38 EUR" in said
    assert len(await office.sends(person)) == 2
    parts = (await office.control.record(kind="generate"))[-1]["body"]["contents"][-1]["parts"]
    assert [part.get("text") or part["inlineData"]["mimeType"] for part in parts] == [
        "Hello", '[in reply to "We want a cake for eight"]\n[file 1: image]\n[image] This one', "image/jpeg",
        "[file 2: document]", "application/pdf",
    ]  # fmt: skip
    texts = [message.text for message in await stored(office) if message.type in ("image", "document")]
    assert [text.splitlines()[0] for text in texts if text] == [
        "[image] This one",
        "[document: An order form for a chocolate praline cake for 8 people, for Saturday, in the name of Amina.]",
    ]


async def test_who_asks_for_a_person_by_voice_gets_one_and_a_transcript(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    spoken = await file(office, person, "audio", VOICE + b"1", "I want to talk to a human", voice=True)
    assert "colleague" in await answer(office, person, spoken)
    assert await needs_human(office) == "customer_asked"
    assert (await stored(office))[0].text == "[voice message] I want to talk to a human"


@pytest.mark.parametrize("with_text", [False, True], ids=["alone", "with a text"])
@pytest.mark.parametrize("trouble", ["unknown", "wrong_bytes", "too_long", "redirect", "forged", "not an image"])
async def test_a_file_that_cannot_be_had_never_stops_the_conversation(
    make_office: MakeOffice, trouble: str, with_text: bool
) -> None:
    office = await make_office()
    person = office.person()
    content = b"this is no picture" if trouble == "not an image" else PHOTO
    message = await file(office, person, "image", content)
    match trouble:
        case "unknown":
            message = wa.media(person, "image", media_id="42")
        case "forged":
            message["image"]["sha256"] = "0" * 64
        case "wrong_bytes" | "too_long" | "redirect":
            await office.control.add_fault("whatsapp", file=trouble, match={"operation": "download"})
    if trouble == "redirect":  # as long as the host sends us elsewhere it is away: not for ever
        office = await at_once(office)
    texts = [wa.text(person, "Do you have vegan pastries?")] if with_text else []
    said = await answer(office, person, message, *texts)
    assert ("apple turnover" in said) if with_text else (said == BAKERY["non_text_reply"])


async def at_once(office: Office) -> Office:
    """Files that cannot be fetched at once are not waited for."""
    bot = office.replica.bot
    assert bot is not None
    bot._attachments = Attachments(
        office.store,
        PostgresMediaStore(office.store),
        office.outside.messenger,
        recording_seconds,
        max_bytes=12_000_000,
        places=2,
        wait_seconds=0,
    )
    return office


async def test_a_download_that_is_cut_off_is_begun_again(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    await office.control.add_fault("whatsapp", file="cut", match={"operation": "download"}, count=1)
    said = await answer(office, person, await file(office, person, "audio", VOICE, voice=True))
    assert "apple turnover" in said
    assert [entry["processed"] for entry in await office.control.record(kind="download")] == [False, True]


@pytest.mark.parametrize(
    ("kind", "mime"), [("video", "video/x-matroska"), ("document", "application/zip"), ("audio", "audio/amr")]
)
async def test_what_the_model_does_not_take_is_kept_for_a_person(make_office: MakeOffice, kind: str, mime: str) -> None:
    office = await make_office()
    person = office.person()
    said = await answer(office, person, await file(office, person, kind, b"PK\x03\x04" * 100, mime_type=mime))
    assert said == BAKERY["non_text_reply"]
    assert await needs_human(office) == "unreadable"
    (message, _) = await stored(office)
    media = (await office.store.media_of([message.id]))[message.id]
    assert (media.state, media.size) == ("kept", 400)
    assert await office.control.record(kind="generate") == []


async def test_too_many_bytes_for_the_model_are_not_shown_to_it(make_office: MakeOffice) -> None:
    office = await make_office(media_max_bytes=100_000)
    person = office.person()
    large = PHOTO + bytes(100_000)
    said = await answer(
        office,
        person,
        await file(office, person, "image", large),
        await file(office, person, "audio", VOICE, voice=True),
    )
    assert "apple turnover" in said
    (asked,) = await office.control.record(kind="generate")
    assert len([part for part in asked["body"]["contents"][-1]["parts"] if "inlineData" in part]) == 1
    assert await needs_human(office) == "unreadable"


@pytest.mark.parametrize(
    ("profile", "kind", "mime", "content"),
    [
        ({"media_kinds": ["audio"]}, "image", "image/jpeg", PHOTO),
        ({"media_max_bytes": len(PHOTO)}, "image", "image/jpeg", PHOTO + b"1"),
        ({"media_max_seconds": 1}, "audio", "audio/ogg", VOICE),
        ({"media_max_seconds": 4}, "audio", "audio/mpeg", (b"\xff\xfb\x90\x00" + bytes(413)) * 200),
        ({"media_max_seconds": 2}, "audio", "audio/mpeg", b"ID3" + bytes(10_000)),
        ({"media_max_pages": 1}, "document", "application/pdf", PDF + b"<</Type/Page>>"),
    ],
    ids=["kind", "bytes", "seconds of a voice note", "seconds of an MP3", "an unknown length", "pages"],
)
async def test_what_is_over_a_limit_of_the_profile_is_kept_for_a_person(
    make_office: MakeOffice, profile: dict[str, Any], kind: str, mime: str, content: bytes
) -> None:
    office = await make_office(profile=profile)
    person = office.person()
    over = await file(office, person, kind, content, mime_type=mime)
    assert await answer(office, person, over) == BAKERY["non_text_reply"]
    assert await needs_human(office) == "unreadable"
    (message, _) = await stored(office)
    assert (await office.store.media_of([message.id]))[message.id].is_kept
    assert await office.control.record(kind="generate") == []


async def test_what_is_within_the_limits_of_the_profile_is_shown_to_the_model(make_office: MakeOffice) -> None:
    limits = {"media_kinds": ["audio", "document"], "media_max_seconds": 6, "media_max_pages": 1}
    office = await make_office(profile=limits | {"media_max_bytes": 100_000})
    person = office.person()
    mp3 = (b"\xff\xfb\x90\x00" + bytes(413)) * 200
    said = await answer(
        office,
        person,
        await file(office, person, "audio", mp3, "Do you have vegan pastries?", mime_type="audio/mpeg"),
        await file(office, person, "document", PDF),
    )
    assert "apple turnover" in said
    (asked,) = await office.control.record(kind="generate")
    assert len([part for part in asked["body"]["contents"][-1]["parts"] if "inlineData" in part]) == 2
    assert await needs_human(office) is None


async def test_understanding_can_be_switched_off_and_files_are_kept_all_the_same(make_office: MakeOffice) -> None:
    office = await make_office(profile={"media_understanding": False})
    person = office.person()
    assert await answer(office, person, await file(office, person, "image", PHOTO)) == BAKERY["non_text_reply"]
    (message, _) = await stored(office)
    assert (await office.store.media_of([message.id]))[message.id].is_kept
    assert await needs_human(office) is None


async def test_while_a_person_answers_files_are_kept_for_them(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    await answer(office, person, wa.text(person, "Hello"))
    (found,) = (await office.store.list_conversations(office.account.id, limit=2, cursor=None)).items
    await office.store.set_bot(found.id, enabled=False)
    await office.receive(person, await file(office, person, "image", PHOTO))
    await office.until_idle()
    message = (await stored(office))[-1]
    assert (await office.store.media_of([message.id]))[message.id].is_kept
    assert len(await office.sends(person)) == 1


async def test_a_picture_from_the_business_app_is_kept_and_shown_and_is_no_question(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    await answer(office, person, wa.text(person, "Hello"))
    echo = await file(office, wa.Person("15550001"), "image", PHOTO, caption="This one?") | {"to": person.wa_id}
    await office.ingest.accept(wa.envelope(wa.echoes_change(office.business, [echo])))
    await office.until_idle()
    message = (await stored(office))[-1]
    assert (message.direction, message.author, message.text) == ("outbound", "human", "[image] This one?")
    media = (await office.store.media_of([message.id]))[message.id]
    assert (media.state, media.size, media.mime) == ("kept", len(PHOTO), "image/jpeg")
    assert len(await office.control.record(kind="generate")) == 1
    assert len(await office.sends(person)) == 1
    (found,) = (await office.store.list_conversations(office.account.id, limit=2, cursor=None)).items
    assert not found.bot_enabled


async def test_a_picture_from_the_business_app_that_cannot_be_fetched_silences_the_bot_all_the_same(
    make_office: MakeOffice,
) -> None:
    office = await make_office()
    person = office.person()
    await answer(office, person, wa.text(person, "Hello"))
    fault = await office.control.add_fault("whatsapp", http_status=503, match={"operation": "download"})
    echo = await file(office, wa.Person("15550001"), "image", PHOTO) | {"to": person.wa_id}
    await office.ingest.accept(wa.envelope(wa.echoes_change(office.business, [echo])))

    async def is_silent() -> bool:
        (found,) = (await office.store.list_conversations(office.account.id, limit=2, cursor=None)).items
        return not found.bot_enabled

    await office.until(is_silent)
    await office.control.remove_fault(fault)


async def test_of_very_many_files_at_once_ten_are_shown_at_a_time_and_all_are_kept(make_office: MakeOffice) -> None:
    office = await make_office(debounce_seconds=0.3)
    person = office.person()
    album = [await file(office, person, "image", PHOTO + b"%d" % n, f"Cake {n}") for n in range(50)]
    await office.receive(person, *album)
    await office.until_idle(timeout_seconds=50)
    requests = await office.control.record(kind="generate")
    shown = [["inlineData" in part for part in each["body"]["contents"][-1]["parts"]].count(True) for each in requests]
    assert max(shown) == 10, shown
    found = await office.store.media_of([message.id for message in await stored(office)])
    assert {media.state for media in found.values()} == {"kept"}
    downloads = [entry["text"] for entry in await office.control.record(kind="download")]
    assert (len(downloads), len(set(downloads))) == (50, 50)
    assert await needs_human(office) == "unreadable"


async def test_a_text_costs_the_database_and_whatsapp_nothing_more_for_files(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    await answer(office, person, wa.text(person, "Hello"))  # profile and account are cached from here on
    calls: list[str] = []
    store, call = office.store, office.store._call  # type: ignore[attr-defined]  # of the SQL stores

    async def counted(called: str, /, **given: object) -> Any:
        calls.append(called)
        return await call(called, **given)

    store._call = counted  # type: ignore[attr-defined]  # of the SQL stores
    await answer(office, person, wa.text(person, "Do you have vegan pastries?"))
    texts, calls[:] = list(calls), []
    await answer(office, person, await file(office, person, "audio", VOICE, voice=True))
    spoken = [name for name in calls if "media" not in name]
    assert [name for name in texts if "media" in name] == []
    assert sorted(spoken) == sorted(texts), "what a voice note costs more is its file"
    assert {"open_media", "settle_media", "describe_media"} <= set(calls)
    print(f"a text: {len(texts)} calls of the database; a voice note: {len(calls)}")
    assert {entry["kind"] for entry in await office.control.record()} >= {"send", "generate"}


async def test_hanging_downloads_leave_the_places_of_texts_free(make_office: MakeOffice, within: Within) -> None:
    office = await make_office()  # ten workers
    fault = await office.control.add_fault("whatsapp", file="stall", match={"operation": "download"})
    for _ in range(30):
        person = office.person()
        await office.receive(person, await file(office, person, "image", PHOTO))
    await office.control.wait(2, kind="download")
    seconds = []
    for _ in range(5):
        person, begun = office.person(), time.monotonic()
        await office.receive(person, wa.text(person, "Do you have vegan pastries?"))
        await office.control.wait(1, kind="send", to=person.wa_id)
        seconds.append(time.monotonic() - begun)
    assert max(seconds) < within(2)
    assert len(await office.control.record(kind="download")) == 2, "the others wait in their mailboxes"
    await office.control.remove_fault(fault)


async def test_the_bars_of_understanding_hold(make_office: MakeOffice) -> None:
    """20 voice notes, 20 photos, 10 PDFs, each answered on what it says; each fetched once."""
    office = await make_office(worker_concurrency=20)
    topics = [
        ("Do you have vegan pastries?", "apple turnover"), ("How much is the strawberry cake?", "38 EUR"),
        ("Do you have gluten-free bread?", "gluten-free"), ("Where are you?", "Tables Claudiennes"),
        ("What are your opening hours on Sunday?", "7:00-13:00"),
    ]  # fmt: skip
    kinds = [("audio", VOICE)] * 20 + [("image", PHOTO)] * 20 + [("document", PDF)] * 10
    wanted: dict[str, str] = {}
    for number, (kind, template) in enumerate(kinds):
        says, word = topics[number % len(topics)]
        person = office.person(f"Person {number}")
        wanted[str(person.wa_id)] = word
        content = template + b"%%%d" % number
        await office.receive(
            person, await file(office, person, kind, content, says=says, voice=kind == "audio" or None)
        )
    async with asyncio.timeout(60):
        await office.control.wait(50, kind="send", timeout_seconds=60)
    sends = {send["to"]: send["text"] for send in await office.control.record(kind="send")}
    right = sum(word in sends[to] for to, word in wanted.items())
    downloads = [entry["text"] for entry in await office.control.record(kind="download")]
    print(f"answered on what they say: {right} of 50; fetched: {len(downloads)}")
    assert right >= 45, f"{right} of 50"
    assert (len(downloads), len(set(downloads))) == (50, 50)


async def test_what_a_killed_worker_had_kept_and_not_said_is_not_fetched_again(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    spoken = await file(office, person, "audio", VOICE, voice=True)
    recorded = to_inbound(spoken, datetime.now(UTC))
    await office.store.record_inbound(
        office.account.id, wa_id=person.wa_id, user_id=None, name="Amina", messages=[recorded]
    )
    told = announced(recorded)
    assert told is not None
    (row,) = (await office.store.open_media(office.account.id, [told], quoted=[])).files

    async def pieces() -> AsyncIterator[bytes]:
        yield VOICE

    await PostgresMediaStore(office.store).put(row.id, pieces(), mime="audio/ogg")
    assert "apple turnover" in await answer(office, person, spoken)
    assert await office.control.record(kind="download") == []


async def test_a_file_that_the_model_cannot_open_is_left_out_and_the_rest_is_answered(make_office: MakeOffice) -> None:
    office = await make_office(debounce_seconds=0.4)
    person = office.person()
    image = await file(office, person, "image", b"no picture at all", caption="this one")
    await office.receive(person, wa.text(person, "Do you have vegan pastries?"))
    await office.receive(person, image)
    await office.until_idle()
    assert "apple turnover" in (await office.sends(person))[-1]["text"]
    assert await needs_human(office) == "unreadable"


async def test_old_files_are_deleted_a_page_at_a_time_and_once_a_minute(make_office: MakeOffice) -> None:
    office = await make_office()
    person = office.person()
    await answer(office, person, await file(office, person, "image", PHOTO))
    assert office.settings.database_url is not None
    database = await asyncpg.connect(office.settings.database_url.get_secret_value())
    try:
        await database.execute("update media set created_at = now() - interval '31 days'")
        clock = FakeClock()
        retention = MediaRetention(office.store, PostgresMediaStore(office.store), days=30, clock=clock)
        assert await retention.tidy() is False
        assert await database.fetchval("select count(*) from media_chunks") == 0
        assert await database.fetchval("select count(*) from media_leftovers where due_at < now()") == 0
        await database.execute("update media set state = 'kept'")
        await retention.tidy()
        assert await database.fetchval("select state from media") == "kept", "not before the minute is over"
        clock.advance(61)
        await retention.tidy()
        assert await database.fetchval("select state from media") == "deleted"
    finally:
        await database.close()
