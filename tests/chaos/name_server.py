"""A name server on loopback that answers, or hangs, as told; and what makes a child process ask it."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

A_RECORD = b"\x00\x01\x00\x01"
IN_OWN_NAMESPACE = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"')
"""Followed by a file and a command, which finds the file as /etc/resolv.conf."""


class NameServer:
    """Every name is 127.0.0.1. `left_alone` counts the questions about names that hang."""

    def __init__(self) -> None:
        self.address = f"127.{random.randint(64, 127)}.{random.randint(0, 255)}.{random.randint(2, 254)}"
        self._hanging: frozenset[str] = frozenset()
        self.left_alone = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((self.address, 53))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def hang(self, *names: str) -> None:
        """From now on these get no answer, and all others do."""
        self._hanging, self.left_alone = frozenset(names), 0

    def resolv_conf(self, folder: Path) -> Path:
        file = folder / "resolv.conf"
        file.write_text(f"nameserver {self.address}\noptions timeout:10 attempts:1\n", encoding="ascii")
        return file

    def close(self) -> None:
        self._socket.sendto(b"", (self.address, 53))  # an empty datagram ends the thread
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                question, client = self._socket.recvfrom(512)
            except OSError:
                return
            if not question:
                return
            name, end = _name(question)
            if name in self._hanging:
                self.left_alone += 1
            else:
                self._socket.sendto(_answer(question, end), client)


def _name(question: bytes) -> tuple[str, int]:
    """The name asked for, and where the question ends (RFC 1035 §4.1)."""
    labels, at = [], 12
    while length := question[at]:
        labels.append(question[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    return ".".join(labels).lower(), at + 5


def _answer(question: bytes, end: int) -> bytes:
    """127.0.0.1, and nothing for what is no A record."""
    is_a = question[end - 4 : end] == A_RECORD
    header = question[:2] + b"\x81\x80\x00\x01" + (b"\x00\x01" if is_a else b"\x00\x00") + b"\x00\x00\x00\x00"
    record = b"\xc0\x0c" + A_RECORD + b"\x00\x00\x00\x00\x00\x04\x7f\x00\x00\x01" if is_a else b""
    return header + question[12:end] + record


def why_not() -> str | None:
    """Why no process can be given a name server of its own here; `None`: it can."""
    if os.geteuid() != 0:
        return "only root may listen on port 53 and mount a file over /etc/resolv.conf"
    if shutil.which("unshare") is None:
        return "unshare (util-linux) is missing"
    probe: Sequence[str] = [*IN_OWN_NAMESPACE, "/etc/hosts", "true"]
    done = subprocess.run(probe, capture_output=True, timeout=10, check=False)
    return None if done.returncode == 0 else "no mount namespace may be made here"


@contextmanager
def running_name_server() -> Iterator[NameServer]:
    server = NameServer()
    try:
        yield server
    finally:
        server.close()
