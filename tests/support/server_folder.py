"""Where the tests' servers keep their data: in memory, where the machine has it to spare."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

MEMORY = Path("/dev/shm")
NEEDED_BYTES = 4 * 2**30
"""A whole run takes a tenth of it."""


def server_folder(prefix: str) -> Path:
    """A new folder, for the caller to delete. Another account can reach what is in it: root runs PostgreSQL as one.

    Not pytest's tmp_path, which is closed to other accounts and kept for three runs. In memory, because a disk pays for
    the thousand files of each test's own database: ext4 without a journal looks at every inode that was freed within
    the last minute before it makes a file, which was half of the suite's CPU.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=MEMORY if _has_room() else None))
    folder.chmod(0o711)
    return folder


def _has_room() -> bool:
    """Docker gives 64 MiB unless it is told otherwise, and lets no program run from there."""
    if not os.access(MEMORY, os.W_OK | os.X_OK):
        return False
    there = os.statvfs(MEMORY)
    if there.f_flag & os.ST_NOEXEC or there.f_bavail * there.f_frsize < NEEDED_BYTES:
        return False
    (available,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(available.split()[1]) * 1024 >= NEEDED_BYTES
