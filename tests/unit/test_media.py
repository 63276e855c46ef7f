"""What a file is, by its message and by its bytes; what is made of the model's words about it; and how much is held."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

import app.sandbox
from app.adapters.gemini_answers import Seen, read_files
from app.domain.handover import CALL_PERSON
from app.domain.media import (
    Media,
    announced,
    described,
    model_mime,
    plain_mime,
    recognise,
    served_as,
    sha256_hex,
)
from app.domain.models import Attachment, BotProfile, FunctionCall, InboundMessage, Json, Turn
from app.domain.prompt import build_prompt
from app.domain.question import read
from app.services.attachments import ByteBudget, Collected

FILES = Path(app.sandbox.__file__).parent / "files"
DIGEST = hashlib.sha256(b"x").digest()


def message(kind: str, node: object, text: str | None = None, **more: object) -> InboundMessage:
    payload: Json = {"type": kind, kind: node, **more}
    return InboundMessage(f"wamid.{kind}", kind, text, datetime(2026, 11, 28, tzinfo=UTC), payload)


def test_a_message_tells_where_its_file_is_and_what_it_should_be() -> None:
    node = {"id": 17, "mime_type": "audio/ogg; codecs=opus", "sha256": base64.b64encode(DIGEST).decode(), "voice": True}
    told = announced(message("audio", node))
    assert told is not None
    assert (told.source_id, told.mime, told.sha256, told.label) == ("17", "audio/ogg", DIGEST.hex(), "voice message")


@pytest.mark.parametrize("node", [None, "x", {}, {"id": ""}, {"id": {"a": 1}}, {"id": None}])
def test_a_message_without_the_id_of_a_file_has_none(node: object) -> None:
    assert announced(message("image", node)) is None
    assert announced(message("text", {"id": "1"})) is None


@pytest.mark.parametrize(
    ("told", "known"),
    [
        (DIGEST.hex(), DIGEST.hex()), (DIGEST.hex().upper(), DIGEST.hex()),
        (base64.b64encode(DIGEST).decode(), DIGEST.hex()), ("c2hhMjU2", None), ("?", None), (None, None), (5, None),
    ],
)  # fmt: skip
def test_a_digest_is_read_in_either_form(told: object, known: str | None) -> None:
    assert sha256_hex(told) == known


@pytest.mark.parametrize(
    ("mime", "plain", "for_the_model"),
    [
        ("Image/JPEG", "image/jpeg", "image/jpeg"), ("audio/mp3", "audio/mp3", "audio/mpeg"),
        ("text/html", "text/html", None), ("audio/amr", "audio/amr", None),
        ("a\r\nb: c", "application/octet-stream", None),
        (None, "application/octet-stream", None),
    ],
)  # fmt: skip
def test_types_lose_their_parameters_and_the_model_gets_those_it_takes(
    mime: object, plain: str, for_the_model: str | None
) -> None:
    assert (plain_mime(mime), model_mime(plain_mime(mime))) == (plain, for_the_model)


@pytest.mark.parametrize(
    ("head", "name", "found"),
    [
        ((FILES / "vegan.ogg").read_bytes()[:1024], "page.html", "audio/ogg"),
        ((FILES / "strawberry-cake.jpg").read_bytes()[:1024], None, "image/jpeg"),
        (b"%PDF-1.7", "x", "application/pdf"), (b"\0\0\0\x20ftypmp42", "x", "video/mp4"),
        (b"\0\0\0\x20ftypM4A ", "x", "audio/mp4"), (b"RIFF\0\0\0\0WEBPVP8 ", "x", "image/webp"),
        ("Straße".encode(), "notes.txt", "text/plain"), ("é".encode() * 512, None, "text/plain"),
        (b"PK\x03\x04", "a.DOCX", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        (b"PK\x03\x04", "a.zip", None), (b"<!DOCTYPE html>", "a.txt", None), (b"\xef\xbb\xbf <svg>", "a.txt", None),
        (b"<?xml version='1.0'?>", "a.txt", None), (b"MZ\x90\0\3", "a.jpg", None), (b"", "a.jpg", None),
    ],
)  # fmt: skip
def test_a_file_of_ours_is_what_its_bytes_say(head: bytes, name: str | None, found: str | None) -> None:
    form = recognise(head, name)
    assert (form.mime if form else None) == found


@pytest.mark.parametrize(
    "mime", ["text/html", "image/svg+xml", "text/plain", "application/xhtml+xml", "text/xml", "x/y"]
)
def test_what_may_run_in_a_browser_has_no_type_and_is_a_download(mime: str) -> None:
    assert served_as(mime) == ("application/octet-stream", False)


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        ('{"files": [{"file": 1, "content": " a cake "}], "reply": "Yes"}', Seen({1: "a cake"}, "Yes")),
        ('```json\n{"reply": "Yes", "files": []}\n```', Seen({}, "Yes")),
        ('{"files": "x", "reply": "Yes"}', Seen({}, "Yes")),
        ('{"files": [{"file": "1", "content": "a"}, 5, {"file": 2}], "reply": "Yes"}', Seen({}, "Yes")),
        ("Yes, we do.", Seen({}, "Yes, we do.")),
        ('{"files": [], "reply": "Yes, we \\"do', Seen({}, 'Yes, we "do')),
        ('{"files": [{"file": 1, "content": "cut', None), ('{"files": [], "reply": ""}', None),
        ('{"files": [], "reply": "", "call_person": {"reason": "customer_asked"}}',
         Seen({}, "", (FunctionCall("call_person", {"reason": "customer_asked"}),))),
    ],
)  # fmt: skip
def test_the_models_words_about_files_are_read_whatever_their_form(said: str, seen: Seen | None) -> None:
    assert read_files(said, [CALL_PERSON.name]) == seen


def test_files_stand_between_the_texts_in_their_order_and_the_history_before_them() -> None:
    picture = Attachment("image/jpeg", b"eA==", 1)
    history = (Turn("user", "Hello"), Turn("model", "Hi!"), Turn("user", "One moment"))
    prompt = build_prompt(BotProfile("a"), None, history, ["first", "second"], {0: picture})
    assert [turn.role for turn in prompt.turns] == ["user", "model", "user"]
    assert prompt.turns[-1].parts == ("One moment", "first", picture, "second")
    assert prompt.turns[-1].text == "One moment\nfirst\nsecond"
    assert prompt.files == (picture,)
    assert "## Rules for files" in prompt.system
    without = build_prompt(BotProfile("a"), None, history, ["first", "second"])
    assert without.files == ()
    assert "## Rules for files" not in without.system


def test_what_the_model_refuses_to_open_leaves_the_words_beside_it() -> None:
    media = Media("1", "a", "image", "image/jpeg", "kept", wa_message_id="wamid.image")
    asked = [message("image", {"id": "1"}, "[image] This one?"), message("text", {"body": "Hi"}, "Hi")]
    question = read(asked, Collected({"wamid.image": media}), {"wamid.image": Attachment("image/jpeg", b"eA==", 1)})
    assert question.texts == ("[file 1: image]\n[image] This one?", "Hi")
    left = question.without_files()
    assert left.texts[:2] == ("[image] This one?", "Hi")
    assert "cannot see" in left.texts[2]
    alone = read(asked[:1], Collected({"wamid.image": media}), {"wamid.image": Attachment("image/jpeg", b"eA==", 1)})
    assert question.told({1: "A cake"}) == [(media, "A cake", described("image", "[image] This one?", "A cake"))]
    assert alone.without_files().texts[0] == "[image] This one?"


async def test_bytes_are_held_in_order_of_arrival_and_a_large_file_alone() -> None:
    budget, order, release = ByteBudget(10), list[str](), asyncio.Event()

    async def hold(name: str, size: int) -> None:
        async with budget.hold(size):
            order.append(name)
            await release.wait()

    async with asyncio.TaskGroup() as group:
        for name, size in (("six", 6), ("large", 50), ("four", 4), ("text", 0)):
            group.create_task(hold(name, size))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == ["six", "text"], "what came later does not overtake, and texts wait for nothing"
        release.set()
    assert order == ["six", "text", "large", "four"]
