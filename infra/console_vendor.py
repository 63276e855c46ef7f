"""Writes backend/app/console/static/vendor/ anew: the newest versions that RANGES allows, by npm (`make vendor`).

`vendor.lock.json` says for every file which package and version it is from, under what licence, and its SHA-256; a test
compares. Nothing runs what npm brings: it packs, and we unpack.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

VENDOR = Path(__file__).resolve().parents[1] / "backend" / "app" / "console" / "static" / "vendor"
LOCK = VENDOR / "vendor.lock.json"
RANGES = {"preact": "11", "htm": "3", "@preact/signals": "2", "@preact/signals-core": "1"}
FILES = {
    "preact": {"dist/preact.mjs": "preact.mjs", "hooks/dist/hooks.mjs": "preact-hooks.mjs"},
    "htm": {"dist/htm.mjs": "htm.mjs"},
    "@preact/signals": {"dist/signals.mjs": "signals.mjs"},
    "@preact/signals-core": {"dist/signals-core.mjs": "signals-core.mjs"},
}
SOURCE_MAP = re.compile(rb"\n?//# sourceMappingURL=\S+\s*$")
"""Left out: the maps are not shipped, and a browser would ask for them."""


def renew() -> list[dict[str, object]]:
    """Fetch every package and write its files; the content of the lock."""
    with tempfile.TemporaryDirectory() as folder:
        return [_take(name, Path(folder)) for name in RANGES]


def _take(name: str, folder: Path) -> dict[str, object]:
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), f"{name}@{RANGES[name]}"]
    packed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]  # noqa: S603
    with tarfile.open(folder / packed) as archive:
        about = json.loads(_read(archive, "package.json"))
        licence_file = f"{name.rpartition('/')[2]}.LICENSE"
        taken = {target: SOURCE_MAP.sub(b"\n", _read(archive, source)) for source, target in FILES[name].items()}
        taken[licence_file] = _read(archive, "LICENSE")
    for target, content in taken.items():
        (VENDOR / target).write_bytes(content)
    return {
        "name": name,
        "version": about["version"],
        "licence": about["license"],
        "files": {target: hashlib.sha256(content).hexdigest() for target, content in taken.items()},
    }


def _read(archive: tarfile.TarFile, path: str) -> bytes:
    member = archive.extractfile(f"package/{path}")
    if member is None:
        raise FileNotFoundError(path)
    return member.read()


if __name__ == "__main__":
    LOCK.write_text(json.dumps({"packages": renew()}, indent=2) + "\n", encoding="utf-8")
