"""rediss://: the certificate is checked, by an authority of one's own if named."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.core.queue import Event, Queue, QueueUnavailable
from app.core.redis import connect


@dataclass
class Tls:
    """In front of the session's Valkey: what arrives encrypted goes on in the clear."""

    port: int
    certificate: Path
    password: str

    def url(self, **options: object) -> str:
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"rediss://:{self.password}@127.0.0.1:{self.port}/0?{query}"


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Of 127.0.0.1, signed by itself: certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "of the test suite")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
    builder = builder.not_valid_after(now + datetime.timedelta(hours=1))
    builder = builder.add_extension(address, critical=False)
    certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
        key, hashes.SHA256()
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


@pytest.fixture
async def tls(valkey_url: str, tmp_path: Path) -> AsyncIterator[Tls]:
    target = urlsplit(valkey_url)
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(target.hostname, target.port)
        for way in (pump(reader, there_writer), pump(there_reader, writer)):
            tasks.add(asyncio.create_task(way))

    certificate, key = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield Tls(server.sockets[0].getsockname()[1], certificate, target.password or "")
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)


async def _put(url: str) -> int:
    redis = connect(url, timeout_seconds=2)
    queue = Queue(redis, redis, namespace="test", debounce_seconds=0, max_pending=10)
    try:
        return (await queue.put([Event("e", "m", b"x")])).accepted
    finally:
        await queue.aclose()
        await redis.aclose()


async def test_a_server_with_a_known_authority_is_spoken_to(tls: Tls) -> None:
    assert await _put(tls.url(ssl_ca_certs=tls.certificate)) == 1


async def test_a_server_nobody_vouches_for_is_not(tls: Tls) -> None:
    with pytest.raises(QueueUnavailable, match="certificate"):
        await _put(tls.url())


async def test_clear_text_is_not_spoken_to_a_server_that_wants_tls(tls: Tls) -> None:
    with pytest.raises(QueueUnavailable):
        await _put(tls.url().replace("rediss://", "redis://"))
