"""Files on a real socket: the bytes, their bound, and whose refusal it is."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator

import pytest

from app.adapters.whatsapp import WhatsAppMessenger
from app.core.circuit_breaker import BreakerPolicy, CircuitBreaker, KeyedCircuitBreakers
from app.core.http_client import close_http_client
from app.domain.errors import AccountRejected, MediaGone, MediaTooLarge, Unavailable
from app.domain.media import OutgoingFile
from app.domain.models import Recipient
from app.domain.ports import Offered
from app.sandbox.app import running_sandbox
from app.sandbox.client import SandboxClient
from app.sandbox.config import SandboxAccount, SandboxConfig
from tests.support.fakes import FakeClock, peer, read_request, response

from .test_messenger import KEYS, new_account


async def whole(offered: Offered) -> tuple[str | None, bytes]:
    return offered.mime, b"".join([piece async for piece in offered.pieces])


async def test_media_comes_with_its_type_bounded_and_only_with_the_accounts_token() -> None:
    config = SandboxConfig(accounts=(SandboxAccount("106540352242922", "t0ken"),), accept_unknown_accounts=False)
    async with running_sandbox(config) as running:
        sends, files = (CircuitBreaker(name, BreakerPolicy(3, 30.0)) for name in ("whatsapp_api", "whatsapp_media"))
        accounts = KeyedCircuitBreakers("whatsapp_api", BreakerPolicy(3, 30.0))
        messenger = WhatsAppMessenger(
            base_url=running.url, api_version="v26.0", cipher=KEYS, breaker=sends, account_breakers=accounts,
            media_breaker=files,
        )  # fmt: skip
        picture = b"\x89PNG" * 100
        source_id = await SandboxClient(running.url).upload(picture, "image/png")
        got = await messenger.fetch_media(new_account(), source_id, max_bytes=400, take=whole)
        assert got == ("image/png", picture)
        with pytest.raises(MediaTooLarge, match="more than 399"):
            await messenger.fetch_media(new_account(), source_id, max_bytes=399, take=whole)
        with pytest.raises(MediaGone):
            await messenger.fetch_media(new_account(), "42", max_bytes=400, take=whole)
        with pytest.raises(AccountRejected):
            await messenger.fetch_media(new_account(token="wrong"), source_id, max_bytes=400, take=whole)
        assert (sends.tally.failed, files.tally.failed) == (0, 0)
        assert accounts.get("106540352242922").snapshot().failure_count == 1
        await close_http_client()


async def test_a_host_of_files_that_is_away_closes_no_circuit_of_the_sends() -> None:
    async with running_sandbox() as running:
        messenger = messenger_at(running.url, media_threshold=3)
        control = SandboxClient(running.url)
        source_id = await control.upload(b"x", "image/png")
        await control.add_fault("whatsapp", http_status=503, match={"operation": "download"})
        with pytest.raises(Unavailable):
            await messenger.fetch_media(new_account(), source_id, max_bytes=400, take=whole)
        assert messenger.media_blocked_seconds() > 0
        assert messenger.blocked_seconds(new_account()) == 0
        await close_http_client()


async def test_what_befalls_the_place_where_a_file_is_put_is_no_failure_of_its_host() -> None:
    tries = 0

    async def broken(_offered: Offered) -> None:
        nonlocal tries
        tries += 1
        raise Unavailable("database", "away")

    async with running_sandbox() as running:
        messenger = messenger_at(running.url, media_threshold=1)
        source_id = await SandboxClient(running.url).upload(b"x", "image/png")
        with pytest.raises(Unavailable, match="away"):
            await messenger.fetch_media(new_account(), source_id, max_bytes=400, take=broken)
        assert (tries, messenger.media_blocked_seconds()) == (1, 0)
        await close_http_client()


async def test_a_file_of_ours_is_uploaded_piece_by_piece_and_sent_by_its_id() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"%PDF-"
        yield b"1.4"

    async with running_sandbox() as running:
        messenger = messenger_at(running.url)
        account = new_account()
        uploaded = await messenger.upload_file(
            account, name='an "order".pdf', mime="application/pdf", size=8, pieces=pieces
        )
        await messenger.send_file(
            account, Recipient("16505551234", None), OutgoingFile("document", uploaded, "order.pdf", "Yours"),
            outbound_key="k#0",
        )  # fmt: skip
        control = SandboxClient(running.url)
        (upload,) = await control.record(kind="upload", processed="true")
        assert upload["text"] == hashlib.sha256(b"%PDF-1.4").hexdigest()
        (send,) = await control.record(kind="send", processed="true")
        node = {"id": uploaded, "caption": "Yours", "filename": "order.pdf"}
        assert (send["body"]["document"], send["text"]) == (node, "Yours")
        await close_http_client()


def messenger_at(url: str, *, media_threshold: int = 1000) -> WhatsAppMessenger:
    breaker = CircuitBreaker("whatsapp_api", BreakerPolicy(1000, 30.0))
    accounts = KeyedCircuitBreakers("whatsapp_api", BreakerPolicy(3, 30.0))
    return WhatsAppMessenger(
        base_url=url, api_version="v26.0", cipher=KEYS, breaker=breaker, account_breakers=accounts, clock=FakeClock(),
        media_breaker=CircuitBreaker("whatsapp_media", BreakerPolicy(media_threshold, 30.0)),
    )  # fmt: skip


@pytest.mark.parametrize("how", ["named", "redirected"])
async def test_another_host_never_sees_the_token_be_it_named_or_redirected_to(how: str) -> None:
    strangers = 0

    async def stranger(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        nonlocal strangers
        strangers += 1

    async with peer(stranger) as elsewhere:

        async def graph(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                line, headers, _ = await read_request(reader)
                assert headers["authorization"] == "Bearer t0ken"
                if line.startswith("GET /file"):
                    writer.write(response(b"", status="302 Found", headers=f"location: {elsewhere}/\r\n"))
                else:
                    where = elsewhere if how == "named" else f"http://{headers['host']}/file"
                    writer.write(response(json.dumps({"url": where, "mime_type": "image/png"}).encode()))
                await writer.drain()

        async with peer(graph) as url:
            with pytest.raises(MediaGone if how == "named" else Unavailable):
                await messenger_at(url).fetch_media(new_account(), "media-1", max_bytes=400, take=whole)
        await close_http_client()
    assert strangers == 0
