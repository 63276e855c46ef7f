"""The console's files, read and compressed once. There is no build step: what is in `static/` is what browsers get."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

STATIC = Path(__file__).parent / "static"
MEDIA_TYPES: Mapping[str, str] = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain; charset=utf-8",
}
MODULES: Mapping[str, str] = {
    "preact": "vendor/preact.mjs",
    "preact/hooks": "vendor/preact-hooks.mjs",
    "htm": "vendor/htm.mjs",
    "@preact/signals": "vendor/signals.mjs",
    "@preact/signals-core": "vendor/signals-core.mjs",
}
"""The import map: what our modules call the vendored ones."""
PRELOADED = ("js/", "vendor/")
LAZY = ("js/bot/", "js/account/", "js/fleet/")
"""Screens that are fetched when they are opened."""
VERSION_CHARACTERS = 12


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is sent. `etag` is a digest of its content, with its quotes."""

    media_type: str
    body: bytes
    gzipped: bytes
    etag: str

    @classmethod
    def of(cls, media_type: str, body: bytes) -> Asset:
        digest = hashlib.sha256(body).hexdigest()[:32]
        return cls(media_type, body, gzip.compress(body, 9, mtime=0), f'"{digest}"')


@dataclass(frozen=True, slots=True)
class Console:
    """The page and the files that it loads. `version` is a digest of all files: it is part of their URLs, so that a
    browser may keep them for ever and never mixes two versions."""

    page: Asset
    policy: str
    """The Content-Security-Policy of the page."""
    version: str
    files: Mapping[str, Asset]
    """By their path under `static/`; the page is not among them."""


@cache
def load() -> Console:
    """About 50 ms, once in a process."""
    paths = sorted(path for path in STATIC.rglob("*") if path.is_file() and path.suffix in MEDIA_TYPES)
    contents = {path.relative_to(STATIC).as_posix(): path.read_bytes() for path in paths}
    template = contents.pop("console.html").decode()
    version = _digest([template.encode(), *(name.encode() + content for name, content in contents.items())])
    base = f"/console/static/{version}/"
    imports = json.dumps({"imports": {name: base + path for name, path in MODULES.items()}})
    preloads = "\n".join(f'<link rel="modulepreload" href="{base}{name}">' for name in contents if _is_preloaded(name))
    page = template.replace("{{base}}", base).replace("{{imports}}", imports).replace("{{preloads}}", preloads)
    return Console(
        page=Asset.of(MEDIA_TYPES[".html"], page.encode()),
        policy=_policy(imports),
        version=version,
        files={name: Asset.of(MEDIA_TYPES[Path(name).suffix], content) for name, content in contents.items()},
    )


def _digest(parts: list[bytes]) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:VERSION_CHARACTERS]


def _is_preloaded(name: str) -> bool:
    return name.startswith(PRELOADED) and name.endswith(("js", "mjs")) and not name.startswith(LAZY)


def _policy(imports: str) -> str:
    """Scripts are our files and the import map, known by its hash; no inline script or style, no eval, no frame around
    us, no other host. Trusted Types without a policy: no string ever becomes a script or markup."""
    import_map = base64.b64encode(hashlib.sha256(imports.encode()).digest()).decode()
    return "; ".join((
        "default-src 'none'", f"script-src 'self' 'sha256-{import_map}'", "style-src 'self'", "img-src 'self' blob:",
        "media-src 'self' blob:", "connect-src 'self'", "base-uri 'none'", "form-action 'self'",
        "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
    ))  # fmt: skip
