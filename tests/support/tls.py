"""TLS in front of servers that have none: the Valkey of the wheel is built without."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NAME = "by-name.test"
HANDSHAKE = b"\x16"
"""The first byte of a client that speaks TLS; no Redis command begins with it."""


class TlsFronts:
    """In a thread of their own, so that whoever starts servers may wait for them. `authority` vouches for them all."""

    def __init__(self, folder: Path) -> None:
        self.authority, key = certificate_of(folder)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.authority, key)
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="TLS fronts")
        self._tasks: set[asyncio.Task[None]] = set()
        self.encrypted: Counter[int] = Counter()
        """Connections that came to each port and spoke TLS."""

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        async def end() -> None:
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def before(self, port: int, *, clear_text: bool = False) -> int:
        """The port that leads to `port` by TLS. `clear_text`: without it too, for servers that know each other by the
        address that clients are told and cannot speak TLS here."""
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        front = int(listener.getsockname()[1])
        self._loop.call_soon_threadsafe(self._spawn, self._listen(listener, port, clear_text))
        return front

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self, listener: socket.socket, port: int, clear_text: bool) -> None:
        with listener:
            while True:
                connection, _ = await self._loop.sock_accept(listener)
                self._spawn(self._serve(connection, port, clear_text))

    async def _serve(self, connection: socket.socket, port: int, clear_text: bool) -> None:
        speaks_tls = await self._first_byte(connection) == HANDSHAKE
        if not (speaks_tls or clear_text):
            connection.close()
            return
        self.encrypted[connection.getsockname()[1]] += speaks_tls
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        with suppress(OSError):
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=self._context if speaks_tls else None
            )
            writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
            try:
                to_server = await asyncio.open_connection("127.0.0.1", port)
                ways = [_pump(reader, to_server[1]), _pump(to_server[0], writer)]
                try:
                    await asyncio.wait(map(self._loop.create_task, ways), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    to_server[1].transport.abort()
            finally:
                writer.transport.abort()
                await asyncio.sleep(0)

    async def _first_byte(self, connection: socket.socket) -> bytes:
        """Looked at, not taken."""
        readable = asyncio.Event()
        self._loop.add_reader(connection, readable.set)
        try:
            await readable.wait()
        except asyncio.CancelledError:
            connection.close()
            raise
        finally:
            self._loop.remove_reader(connection)
        with suppress(OSError):
            return connection.recv(1, socket.MSG_PEEK)
        return b""


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@contextmanager
def running_fronts(folder: Path) -> Iterator[TlsFronts]:
    fronts = TlsFronts(folder)
    fronts.start()
    try:
        yield fronts
    finally:
        fronts.close()


def certificate_of(folder: Path) -> tuple[Path, Path]:
    """For 127.0.0.1 and `NAME`, signed by itself: certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "of the test suite")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName(NAME)])
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
