"""Files over HTTP: members read them, whole and in parts, and send their own; nothing is ever shown as a page."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

import app.sandbox
from app.sandbox import webhooks as wa
from app.sandbox.webhooks import encode_like_meta, signed_headers
from tests.support.replica import NUMBER, NUMBERS_TOKEN, Replica, one_replica, token_of
from tests.support.serving import APP_SECRET

FILES = Path(app.sandbox.__file__).parent / "files"
PHOTO = (FILES / "strawberry-cake.jpg").read_bytes()
VOICE = (FILES / "vegan.ogg").read_bytes()
PDF = (FILES / "order.pdf").read_bytes()

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(module_stores: tuple[str, str]) -> AsyncIterator[Replica]:
    async with one_replica(*module_stores, debounce_seconds=0) as api:
        await api.new_account(owner="ada", phone_number_id=NUMBER, access_token=NUMBERS_TOKEN)
        await api.new_account(owner="eve")
        yield api


async def write(api: Replica, message: Any) -> None:
    raw = encode_like_meta(wa.envelope(wa.messages_change(wa.Business(NUMBER), [message], [PERSON])))
    (
        await api.http.post(f"{api.url}/webhook/whatsapp", content=raw, headers=signed_headers(APP_SECRET, raw))
    ).raise_for_status()


PERSON = wa.Person("33612345678", "Amina")


async def conversation_id(api: Replica) -> str:
    """Of the only one, once it is there."""
    (account,) = await api("GET", "/accounts", user="ada")
    async with asyncio.timeout(10):
        while not (page := await api("GET", f"/conversations?account_id={account['id']}"))["items"]:
            await asyncio.sleep(0.05)
    return str(page["items"][0]["id"])


async def messages(api: Replica) -> list[dict[str, Any]]:
    return list((await api("GET", f"/conversations/{await conversation_id(api)}/messages", user="ada"))["items"])


async def received(api: Replica, kind: str, content: bytes, mime: str, **more: Any) -> dict[str, Any]:
    """The message, once its answer is there."""
    source_id = await api.sandbox.upload(content, mime)
    message = wa.file(PERSON, kind, source_id, content, mime_type=mime, **more)
    before = (await api.sandbox.summary())["last_seq"]
    await write(api, message)
    await api.sandbox.wait(1, kind="send", after=before)
    (found,) = [each for each in await messages(api) if each["wa_message_id"] == message["id"]]
    return found


async def test_a_member_reads_a_file_whole_in_parts_and_only_when_it_is_news(api: Replica) -> None:
    message = await received(api, "image", PHOTO, "image/jpeg")
    assert message["media"] == {
        "kind": "image", "mime": "image/jpeg", "size": len(PHOTO), "name": None, "state": "kept",
        "description": message["media"]["description"],
    }  # fmt: skip
    assert "strawberry" in message["media"]["description"]
    path = f"/messages/{message['id']}/media"
    whole = await api.raw("GET", path, user="ada")
    assert (whole.status_code, whole.content) == (200, PHOTO)
    tag = f'"{hashlib.sha256(PHOTO).hexdigest()}"'
    assert whole.headers["etag"] == tag
    assert whole.headers["content-type"] == "image/jpeg"
    assert whole.headers["content-disposition"].startswith("inline;")
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["cache-control"] == "private, no-cache"
    size = len(PHOTO)
    for asked, start, end in (("0-9", 0, 10), ("100-", 100, size), ("-5", size - 5, size), (f"9-{size * 2}", 9, size)):
        part = await api.raw("GET", path, user="ada", headers={"Range": f"bytes={asked}"})
        assert (part.status_code, part.content) == (206, PHOTO[start:end]), asked
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
    beyond = await api.raw("GET", path, user="ada", headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    for ignored in ({"Range": "bytes=0-1,4-5"}, {"Range": "x"}, {"Range": "bytes=0-1", "If-Range": '"old"'}):
        assert (await api.raw("GET", path, user="ada", headers=ignored)).status_code == 200
    assert (await api.raw("GET", path, user="ada", headers={"If-None-Match": tag})).status_code == 304


async def test_to_others_and_for_what_has_no_file_there_is_nothing(api: Replica) -> None:
    message = await received(api, "audio", VOICE, "audio/ogg", voice=True)
    path = f"/messages/{message['id']}/media"
    assert (await api.raw("GET", path, user="ada")).content == VOICE
    text = next(each["id"] for each in await messages(api) if each["type"] == "text")
    guessed = f"{message['id'][:-1]}{'0' if message['id'][-1] != '0' else '1'}"
    for where, user in ((path, "eve"), (path, "mallory"), (f"/messages/{guessed}/media", "ada"),
                        (f"/messages/{text}/media", "ada"), ("/messages/..%2f..%2fx/media", "ada")):  # fmt: skip
        error = await api.refused("GET", where, user=user, status=404)
        assert error["code"] in ("media_not_found", "not_found"), where
    assert (await api.http.get(api.url + path)).status_code == 401


@pytest.mark.parametrize(
    ("name", "mime", "content"),
    [
        ("page.html", "text/html", b"<html><script>alert(1)</script></html>"),
        ("picture.svg", "image/svg+xml", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"),
        ('a"; filename=\r\n"x.html', "application/xhtml+xml", b"<html/>"),
    ],
    ids=["html", "svg", "a name with a header in it"],
)
async def test_what_a_browser_could_run_is_only_a_download(api: Replica, name: str, mime: str, content: bytes) -> None:
    message = await received(api, "document", content, mime, filename=name)
    served = await api.raw("GET", f"/messages/{message['id']}/media", user="ada")
    assert (served.content, served.headers["content-type"]) == (content, "application/octet-stream")
    assert served.headers["content-disposition"].startswith("attachment;")
    assert served.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert "\n" not in served.headers["content-disposition"]


async def test_a_picture_that_would_take_a_browsers_memory_is_only_a_download(api: Replica) -> None:
    side = (30_000).to_bytes(4, "big")
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + side + side + bytes(100)
    message = await received(api, "image", bomb, "image/png")
    served = await api.raw("GET", f"/messages/{message['id']}/media", user="ada")
    assert (served.content, served.headers["content-type"]) == (bomb, "application/octet-stream")
    assert served.headers["content-disposition"].startswith("attachment;")


async def send(
    api: Replica, content: bytes, *, name: str = "x", status: int = 202, key: str = "", **fields: str
) -> Any:
    await write(api, wa.text(PERSON, "Please send it"))
    headers = {"Idempotency-Key": key} if key else {}
    path = f"/conversations/{await conversation_id(api)}/messages"
    form = {"files": {"file": (name, content, "text/html")}, "data": fields}
    return await api("POST", path, user="ada", status=status, headers=headers, **form)


async def sent(api: Replica, before: int) -> dict[str, Any]:
    await api.sandbox.wait(1, kind="upload", processed="true", after=before)
    async with asyncio.timeout(10):
        while True:
            found = await api.sandbox.record(kind="send", processed="true", after=before)
            if files := [each for each in found if each["body"]["type"] != "text"]:
                return files[0]
            await asyncio.sleep(0.05)


async def test_a_person_sends_a_file_which_is_what_its_bytes_say(api: Replica) -> None:
    before = (await api.sandbox.summary())["last_seq"]
    reply = await send(api, PDF, name="../../Rechnung März.pdf", text="Your invoice", key="one")
    found = await sent(api, before)
    assert found["body"]["document"] | {"id": ""} == {
        "id": "",
        "caption": "Your invoice",
        "filename": "Rechnung März.pdf",
    }
    (upload,) = await api.sandbox.record(kind="upload", after=before)
    assert upload["text"] == hashlib.sha256(PDF).hexdigest()
    again = await send(api, PDF, name="x.pdf", text="Your invoice", key="one")
    assert again["key"] == reply["key"]
    assert (await send(api, PDF + b" ", text="Your invoice", key="one", status=422))["error"][
        "code"
    ] == "idempotency_key_reused"
    assert (await send(api, PDF, text="Another", key="one", status=422))["error"]["code"] == "idempotency_key_reused"
    assert len(await api.sandbox.record(kind="upload", after=before)) == 1
    message = next(each for each in await messages(api) if each["outbound_key"] == f"{reply['key']}#0")
    assert (message["type"], message["text"]) == ("document", "[document] Your invoice")
    assert (message["media"]["mime"], message["media"]["size"]) == ("application/pdf", len(PDF))
    served = await api.raw("GET", f"/messages/{message['id']}/media", user="ada")
    assert (served.content, served.headers["content-type"]) == (PDF, "application/pdf")
    assert served.headers["content-disposition"].startswith("attachment;")


async def test_a_voice_file_goes_out_with_its_words_behind_it(api: Replica) -> None:
    before = (await api.sandbox.summary())["last_seq"]
    await send(api, VOICE, name="note.ogg", text="Listen")
    found = await sent(api, before)
    assert set(found["body"]["audio"]) == {"id"}
    async with asyncio.timeout(10):
        while "Listen" not in [each["text"] for each in await api.sandbox.record(kind="send", after=before)]:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("content", "fields", "field"),
    [
        (b"<html><script>x</script>", {}, "file"), (b"\x89PNG\r\n\x1a\n" + bytes(5 * 1024 * 1024), {}, "file"),
        (b"MZ\x90\0", {}, "file"), (b"", {}, "file"), (PHOTO, {"text": "x" * 1025}, "text"),
        (PHOTO, {"other": "x"}, "other"),
    ],
    ids=["html", "too large", "a program", "empty", "a long caption", "an unknown field"],
)  # fmt: skip
async def test_what_may_not_be_sent_is_refused_by_name(
    api: Replica, content: bytes, fields: dict[str, str], field: str
) -> None:
    error = (await send(api, content, name="photo.jpg", status=422, **fields))["error"]
    assert (error["code"], error["field"]) == ("invalid_input", field)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\ncontent-disposition: form-data"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\n\r\n--x--"), ("multipart/form-data; boundary=x", b"--x--"),
    ],
    ids=["no boundary", "cut off", "no name", "nothing"],
)  # fmt: skip
async def test_a_broken_form_is_refused(api: Replica, content_type: str, body: bytes) -> None:
    path = f"/conversations/{await conversation_id(api)}/messages"
    answer = await api.raw("POST", path, user="ada", content=body, headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")


async def test_an_upload_that_is_cancelled_half_way_sends_nothing_and_is_no_error_of_ours(
    api: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    path, before = f"/conversations/{await conversation_id(api)}/messages", (await api.sandbox.summary())["last_seq"]
    where = urlsplit(api.url)
    _, writer = await asyncio.open_connection(where.hostname, where.port)
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token_of('ada')}\r\ncontent-length: 9999\r\n"
    writer.write(f"{head}content-type: multipart/form-data; boundary=x\r\n\r\n--x".encode())
    await writer.drain()
    caplog.set_level(logging.INFO)
    caplog.clear()
    writer.close()
    async with asyncio.timeout(10):
        while "request" not in caplog.messages:
            await asyncio.sleep(0.01)
    (ended,) = (record.__dict__["fields"] for record in caplog.records if record.getMessage() == "request")
    assert (ended["route"], ended["status"]) == ("/conversations/{conversation_id}/messages", 400)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []
    assert (await api.sandbox.summary())["last_seq"] == before


async def test_a_form_that_is_too_large_is_not_read_and_strangers_send_none(api: Replica) -> None:
    path = f"/conversations/{await conversation_id(api)}/messages"
    where = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token_of('ada')}\r\ncontent-length: 17000000\r\n"
    writer.write(f"{head}content-type: multipart/form-data; boundary=x\r\n\r\n".encode())
    assert b" 413 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    small = {"files": {"file": ("x.pdf", PDF, "application/pdf")}}
    assert (await api.refused("POST", path, user="eve", status=404, **small))["code"] == "conversation_not_found"
