"""A Valkey that forgets everything when it ends: no append-only file, no snapshot."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.localhost.location import locate
from app.localhost.servers import Valkey, remove_data
from app.localhost.valkey import CONFIG


class ForgetfulValkey(Valkey):
    name = "forgetful Valkey"
    config = CONFIG.replace("appendonly yes", "appendonly no")


@contextmanager
def forgetful_valkey() -> Iterator[ForgetfulValkey]:
    folder = Path(tempfile.mkdtemp(prefix="chorus-forgetful-"))
    folder.chmod(0o711)
    server = ForgetfulValkey(locate(folder))
    try:
        server.start()
        yield server
    finally:
        server.stop()
        remove_data(folder)
