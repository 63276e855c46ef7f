"""Which build of a version this is: two of them may run side by side and differ in nothing else that people can see."""

from __future__ import annotations

import hashlib
from pathlib import Path

import app

BUILD_CHARACTERS = 40


def build_id(given: str | None) -> str:
    """`given` (CHORUS_BUILD: a commit, as the image was told), or a digest of the files this process runs from."""
    return given[:BUILD_CHARACTERS] if given else f"src-{digest_of(Path(app.__file__).parent)}"


def digest_of(folder: Path) -> str:
    """Twelve hex digits over every file's place and content, compiled ones left out. Reads about a megabyte."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            content = hashlib.sha256(path.read_bytes()).digest()
            total.update(path.relative_to(folder).as_posix().encode() + b"\0" + content)
    return total.hexdigest()[:12]
