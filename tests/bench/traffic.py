"""What Meta would post, built beforehand: signed webhooks of one text message each, 1.1 to 1.2 KB, every id once."""

from __future__ import annotations

import socket

from app.sandbox.webhooks import Business, Person, encode_like_meta, envelope, messages_change, sign, text
from tests.bench.child import BenchError

BUSINESS = Business("106540352242922")
CUSTOMERS = 2000
PATH = "/webhook/whatsapp"
WORDS = (
    "Hello, I would like to order a sourdough loaf and twelve croissants for Saturday morning. "
    "Could you tell me until when I can collect them, and whether you take cards? "
)


def webhook(n: int) -> bytes:
    """The n-th body of a run; customers write in turn."""
    customer = Person(f"3361{n % CUSTOMERS:07d}", f"Customer {n % CUSTOMERS}")
    message = text(customer, (WORDS * 5)[:680], id=f"wamid.HBgLMzM2MTAwMDAwMDAVAgASGBQzQTAwMDAwMDAw{n:012d}AA==")
    raw = encode_like_meta(envelope(messages_change(BUSINESS, [message], [customer])))
    assert 1100 <= len(raw) <= 1200, len(raw)
    return raw


def batch(messages: int, n: int) -> bytes:
    """One POST with as many messages, each of another customer; `n` makes its ids unlike those of other batches."""
    people = [Person(f"3362{index:07d}", f"Customer {index}") for index in range(messages)]
    written = [text(person, WORDS, id=f"wamid.batch-{n}-{index}") for index, person in enumerate(people)]
    return encode_like_meta(envelope(messages_change(BUSINESS, written, people)))


def http_request(raw: bytes, app_secret: str) -> bytes:
    """HTTP/1.1, kept alive, signed."""
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: chorus.example\r\nUser-Agent: facebookexternalua\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\nX-Hub-Signature-256: {sign(app_secret, raw)}\r\n"
        f"Content-Length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw


def post(connection: socket.socket, request: bytes) -> None:
    """Returns with the last byte of the 200; raises `BenchError` for anything else. Blocks, so that nothing stands
    between that byte and the caller's look at the clock."""
    connection.sendall(request)
    answer = b""
    while not answer.endswith(b"\r\n\r\nOK"):
        received = connection.recv(65536)
        answer += received
        if not received or not answer.startswith(b"HTTP/1.1 200 "):
            raise BenchError(f"the webhook was answered with {answer[:40]!r}")
