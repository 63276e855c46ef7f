"""A Valkey that forgets everything when it ends: no append-only file, no snapshot."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.localhost.location import locate
from app.localhost.processes import ChildProcess
from app.localhost.servers import Valkey, remove_data
from app.localhost.valkey import CONFIG


class ForgetfulValkey(Valkey):
    name = "forgetful Valkey"

    def _launch(self, port: int) -> ChildProcess:
        config = CONFIG.format(port=port, password=self._password).replace("appendonly yes", "appendonly no")
        process = ChildProcess(
            self.name,
            [self.location.valkey_server, "-"],
            stdin=config.encode(),
            cwd=self.location.server_folder("valkey"),
            env={"LC_ALL": "C"},
            log_file=self.location.folder / "valkey.log",
            pid_file=self.location.folder / "valkey.pid",
            account=self.location.account,
        )
        process.start()
        return process


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
