"""Events for other systems: which addresses a receiver's URL may lead to, and how a receiver knows who speaks."""

from __future__ import annotations

import asyncio
import socket
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from app.adapters.receivers import MAX_ANSWER_BYTES, HttpReceiver
from app.core.egress import Egress, is_public, url_problem
from app.core.http_client import close_http_client, leave_by
from app.core.resolver import Resolver
from app.domain.endpoints import OutboxEvent, Outcome
from app.domain.webhook_signature import new_secret
from tests.support.fakes import peer, read_request, response

EVENT = OutboxEvent(
    "0b1f6c2a-0000-4000-8000-000000000001", "account", None, "message.sent", {"message": {"text": "é"}},
    datetime(2026, 11, 28, tzinfo=UTC),
)  # fmt: skip


@pytest.fixture(autouse=True)
async def _closed_afterwards() -> Any:
    yield
    leave_by(Egress())
    await close_http_client()


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "192.167.255.255", "2606:4700::1111", "2a00:1450::1",
        "64:ff9b::808:808", "::ffff:8.8.8.8", "2002:808:808::1",
    ],
)  # fmt: skip
def test_a_public_address_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        # this host, private, shared (CGNAT), loopback, link-local with the metadata service, reserved, multicast
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.255",
        "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.168.1.1", "198.18.0.1",
        "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1",
        "2001::1", "100::1", "3fff::1",
        # an IPv4 address within: mapped, compatible, translated, 6to4, NAT64, NAT64 of a network's own
        "::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "::ffff:0:10.0.0.1", "2002:7f00:1::1",
        "2002:a00:1::", "64:ff9b::7f00:1", "64:ff9b::10.0.0.1", "64:ff9b:1::808:808",
        "", "example.com", "127.1",
    ],
)  # fmt: skip
def test_any_other_address_is_not(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/x?y=1",
        "https://example.com:8443/",
        "https://8.8.8.8/",
        "https://[2606:4700::1111]/",
        "https://example.com./",
        "https://my_shop.example.com/",
        "https://xn--strae-oqa.de/",
    ],
)
def test_an_https_url_of_a_public_place_is_taken(url: str) -> None:
    assert url_problem(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "ftp://example.com/", "//example.com/", "example.com", "https://", "https:///x",
        "https://localhost/", "https://redis:6379/", "https://127.0.0.1/", "https://[::1]/", "https://[::ffff:10.0.0.1]/",
        "https://[fe80::1%25eth0]/", "https://169.254.169.254/latest/meta-data",
        # decimal, octal, hexadecimal, short
        "https://2130706433/", "https://0x7f000001/", "https://0x7f.1/", "https://0177.0.0.1/", "https://127.1/",
        "https://1.2.3.0x4/", "https://example.0/", "https://127.0.0.1./", "https://0/",
        "https://user@example.com/", "https://user:pw@example.com/", "https://example.com\\@127.0.0.1/",
        "https://example.com/#x", "https://example.com:0/", "https://example.com:99999/", "https://exa mple.com/",
        "https://example.com/\r\nHost: x", "https://ex%61mple.com/", "https://[::1/",
        # names that DNS cannot hold
        "https://example..com/", "https://.example.com/", "https://*.example.com/", f"https://{'a' * 64}.com/",
        f"https://{'a.' * 126}com/",
    ],
)  # fmt: skip
def test_any_other_url_is_refused_with_the_reason(url: str) -> None:
    assert url_problem(url)


def test_in_development_a_url_may_lead_home() -> None:
    assert url_problem("http://127.0.0.1:9/", may_be_private=True) is None
    assert url_problem("ftp://127.0.0.1/", may_be_private=True)


@pytest.mark.parametrize(
    ("url", "is_taken"),
    [
        ("https://example.com/", True),
        ("https://example.com:443/", True),
        ("https://example.com:8443/", True),
        ("https://example.com:9443/", False),
        ("https://example.com:22/", False),
        ("https://[2606:4700::1111]:80/", False),
    ],
)
def test_a_receiver_listens_where_the_shipped_network_policy_lets_out(url: str, is_taken: bool) -> None:
    assert (HttpReceiver().problem_with(url) is None) is is_taken
    assert HttpReceiver(may_be_private=True).problem_with(url) is None


async def test_a_name_with_one_private_address_is_refused_and_nothing_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is one that was public when it was looked up before: every connection judges the answer it goes by."""
    connected = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()

    async with peer(handler) as url:
        port = int(url.rpartition(":")[2])

        def answer(host: str, *_args: object, **_more: object) -> list[Any]:
            assert host == "rebinds.example"
            addresses = [("8.8.8.8", port), ("127.0.0.1", port)]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", answer)
        told = await HttpReceiver().deliver(f"https://rebinds.example:{port}/", EVENT, secrets=[new_secret()])
    assert (told.outcome, told.status) == (Outcome.FORBIDDEN_ADDRESS, None)
    assert not connected.is_set()


async def test_the_connection_goes_to_the_address_that_was_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the name in SNI's and Host's place; the name is looked up once."""
    lookups = []
    hosts = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, headers, _ = await read_request(reader)
        hosts.append(headers["host"])
        writer.write(response(b"ok"))

    async with peer(handler) as url:
        port = int(url.rpartition(":")[2])

        async def answer(host: str, *_args: object, **_more: object) -> list[Any]:
            lookups.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", answer)
        leave_by(Egress(strangers_may_be_private=True))
        receiver = HttpReceiver(may_be_private=True)
        told = await receiver.deliver(f"http://receiver.example:{port}/", EVENT, secrets=[new_secret()])
    assert (told.outcome, told.status, told.text) == (Outcome.DELIVERED, 200, "ok")
    assert (lookups, hosts) == (["receiver.example"], [f"receiver.example:{port}"])


async def test_an_address_of_ours_in_the_url_is_refused_by_the_connection_too() -> None:
    """Whatever the form of the URL was judged by."""
    for url in ("https://127.0.0.1:9/", "https://[::1]:9/"):
        receiver = HttpReceiver()
        receiver.problem_with = lambda _url: None  # type: ignore[method-assign]  # the form passed for once
        told = await receiver.deliver(url, EVENT, secrets=[new_secret()])
        assert told.outcome is Outcome.FORBIDDEN_ADDRESS


async def told_by(answer: bytes, *, seconds: float = 5.0) -> tuple[Any, dict[str, str], bytes, str]:
    """What became of a delivery to a receiver that says `answer`; its headers and body; the secret."""
    seen: list[tuple[dict[str, str], bytes]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, headers, body = await read_request(reader)
        seen.append((headers, body))
        writer.write(answer)
        await writer.drain()
        await reader.read()

    secret = new_secret()
    leave_by(Egress(strangers_may_be_private=True))
    async with peer(handler) as url:
        receiver = HttpReceiver(may_be_private=True, timeout_seconds=seconds)
        told = await receiver.deliver(url, EVENT, secrets=[secret])
    ((headers, body),) = seen
    return told, headers, body, secret


async def test_a_delivery_is_signed_over_id_time_and_body() -> None:
    told, headers, body, secret = await told_by(response(b"thanks"))
    assert (told.outcome, told.status, told.text) == (Outcome.DELIVERED, 200, "thanks")
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == EVENT.id == orjson.loads(body)["id"]
    assert orjson.loads(body) == {
        "id": EVENT.id, "type": "message.sent", "timestamp": "2026-11-28T00:00:00+00:00", "account_id": "account",
        "data": {"message": {"text": "é"}},
    }  # fmt: skip
    verifier = Webhook(secret)  # of the published library; it also looks at the time
    assert verifier.verify(body, headers) == orjson.loads(body)
    for forged in (body.replace(b"sent", b"read"), b""):
        with pytest.raises(WebhookVerificationError):
            verifier.verify(forged, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(body, headers)


@pytest.mark.parametrize("status", ["302 Found", "410 Gone", "500 Oops", "404 Not Found"])
async def test_any_answer_but_success_is_a_refusal_and_no_redirect_is_followed(status: str) -> None:
    told, *_ = await told_by(response(b"", status=status, headers="location: http://127.0.0.1:9/\r\n"))
    assert (told.outcome, told.status) == (Outcome.REFUSED, int(status[:3]))


async def test_an_answer_is_read_up_to_a_bound_and_its_first_characters_are_kept() -> None:
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {100 * MAX_ANSWER_BYTES}\r\n\r\n".encode()
    told, *_ = await told_by(head + b"a" * 4 * MAX_ANSWER_BYTES)
    assert (told.outcome, told.text) == (Outcome.DELIVERED, "a" * 500)


async def test_a_receiver_that_does_not_answer_in_time_is_given_up() -> None:
    told, *_ = await told_by(b"HTTP/1.1 200 OK\r\n", seconds=0.5)
    assert (told.outcome, told.status) == (Outcome.TIMEOUT, None)


async def test_a_receiver_that_is_not_there_is_unreachable() -> None:
    leave_by(Egress(strangers_may_be_private=True))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        told = await HttpReceiver(may_be_private=True).deliver(url, EVENT, secrets=[new_secret()])
    assert (told.outcome, told.status) == (Outcome.UNREACHABLE, None)


@pytest.mark.parametrize("host", ["example..com", f"{'a' * 64}.com", "xn--", "xn--a.com", "xn--i-7iq.ws"])
async def test_a_name_that_python_or_idna_refuses_is_unreachable_like_any_other(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner reads why nothing arrives. `xn--i-7iq.ws` is i❤.ws, which exists: IDNA 2008 alone has no emoji."""
    asked: list[str] = []

    def look_up(name: str, *_args: object, **_more: object) -> list[Any]:
        asked.append(name)
        name.encode("idna")  # as getaddrinfo does
        raise socket.gaierror(socket.EAI_NONAME, "as told")

    async def answer(name: str, port: int, **hints: int) -> Any:
        return await Resolver(look_up).addresses(name, port, **hints)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", answer)
    leave_by(Egress(strangers_may_be_private=True))
    told = await HttpReceiver(may_be_private=True).deliver(f"https://{host}/", EVENT, secrets=[new_secret()])
    assert (told.outcome, asked) == (Outcome.UNREACHABLE, [host])
