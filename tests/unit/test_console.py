"""The console's files: what is vendored is what the lock says, every text exists in every language, and browsers get
them under a policy that lets nothing else run."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from app.api import routes_console
from app.console import load
from app.console.assets import MODULES, STATIC

VENDOR = STATIC / "vendor"
LANGUAGES = sorted((STATIC / "lang").glob("*.json"))
SOURCES = sorted((STATIC / "js").rglob("*.js"))
CALL = re.compile(r"""\b(?:t|has)\(\s*["'`]([a-z_]+\.[a-z0-9_.]+)["'`]""")
PLACEHOLDER = re.compile(r"\{(\w+)\}")


@pytest.fixture
async def browser() -> AsyncIterator[httpx.AsyncClient]:
    app = Starlette(routes=routes_console.ROUTES)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://console") as client:
        yield client


def texts(path: Path) -> dict[str, str]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def test_the_vendored_files_are_those_of_the_lock() -> None:
    packages = json.loads((VENDOR / "vendor.lock.json").read_text(encoding="utf-8"))["packages"]
    locked = {name: digest for package in packages for name, digest in package["files"].items()}
    there = {path.name for path in VENDOR.iterdir()} - {"vendor.lock.json"}
    assert there == set(locked)
    for name, digest in locked.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name
    for package in packages:
        assert package["version"]
        assert package["licence"] in {"MIT", "Apache-2.0"}
        assert any(name.endswith(".LICENSE") for name in package["files"]), package["name"]


def test_the_import_map_names_what_our_modules_and_the_vendored_ones_import() -> None:
    imported = set()
    for path in [*SOURCES, *VENDOR.glob("*.mjs")]:
        imported |= set(re.findall(r"""\bfrom\s*["']([^"'.][^"']*)["']""", path.read_text(encoding="utf-8")))
    assert imported == set(MODULES)
    assert all((STATIC / path).is_file() for path in MODULES.values())


def test_french_punctuation_never_begins_a_line() -> None:
    loose = re.compile(r" [:;?!»%]|« ")
    assert [key for key, text in texts(STATIC / "lang" / "fr.json").items() if loose.search(text)] == []


def test_every_language_has_every_text_with_the_same_blanks() -> None:
    english, *others = (texts(path) for path in LANGUAGES)
    assert len(LANGUAGES) >= 2
    for other in others:
        assert list(other) == list(english)
        for key, text in english.items():
            assert set(PLACEHOLDER.findall(other[key])) == set(PLACEHOLDER.findall(text)), key


def test_every_text_that_a_screen_asks_for_exists() -> None:
    known = texts(LANGUAGES[0])
    for path in SOURCES:
        for key in CALL.findall(path.read_text(encoding="utf-8")):
            assert key in known or f"{key}_other" in known, f"{path.name}: {key}"


def test_no_source_makes_markup_or_code_of_text() -> None:
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|dangerously|\beval\(|new Function|srcdoc"
    )
    for path in SOURCES:
        assert not forbidden.search(path.read_text(encoding="utf-8")), path.name


async def test_the_page_runs_nothing_but_our_files_and_its_import_map(browser: httpx.AsyncClient) -> None:
    answer = await browser.get("/console")
    assert answer.status_code == 200
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert "unsafe" not in answer.headers["content-security-policy"]
    (import_map,) = re.findall(r'<script type="importmap">(.*?)</script>', answer.text)
    digest = base64.b64encode(hashlib.sha256(import_map.encode()).digest()).decode()
    assert policy["script-src"] == f"'self' 'sha256-{digest}'"
    assert (
        policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["trusted-types"] == "'none'"
    )
    assert policy["require-trusted-types-for"] == "'script'"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-cache"
    assert "style=" not in answer.text
    assert "{{" not in answer.text


async def test_what_the_page_names_is_there_and_may_be_kept_for_ever(browser: httpx.AsyncClient) -> None:
    page = (await browser.get("/console/")).text
    urls = set(re.findall(r'"(/console/static/[^"]+)"', page))
    assert len(urls) > 10
    for url in urls:
        answer = await browser.get(url)
        assert answer.status_code == 200, url
        assert "immutable" in answer.headers["cache-control"]


async def test_a_browser_that_has_a_file_is_told_so(browser: httpx.AsyncClient) -> None:
    first = await browser.get("/console")
    tag = first.headers["etag"]
    assert not tag.startswith("W/")
    for asked in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await browser.get("/console", headers={"If-None-Match": asked})
        assert (again.status_code, again.content) == (304, b"")
    assert (await browser.get("/console", headers={"If-None-Match": '"other"'})).status_code == 200


async def test_files_come_compressed_to_those_who_take_it(browser: httpx.AsyncClient) -> None:
    url = f"/console/static/{load().version}/vendor/preact.mjs"
    packed = await browser.get(url, headers={"Accept-Encoding": "br, gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["vary"] == "Accept-Encoding"
    for refused in ("identity", "gzip;q=0", "br, gzip; q=0.0"):
        plain = await browser.get(url, headers={"Accept-Encoding": refused})
        assert "content-encoding" not in plain.headers
        assert plain.content == (VENDOR / "preact.mjs").read_bytes() == packed.content


async def test_a_file_of_another_version_is_not_kept_and_an_unknown_one_is_an_error(browser: httpx.AsyncClient) -> None:
    other = await browser.get("/console/static/0123456789ab/js/main.js")
    assert (other.status_code, other.headers["cache-control"]) == (200, "no-cache")
    for path in ("js/none.js", "console.html", "%2e%2e/assets.py"):
        missing = await browser.get(f"/console/static/{load().version}/{path}")
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "not_found"


def test_the_first_load_is_small() -> None:
    """What is fetched before the inbox is shown: the page, the styles, a dictionary, the modules of the inbox."""
    console = load()
    first = [
        asset
        for name, asset in console.files.items()
        if name.startswith(("js/", "css/", "vendor/", "lang/en", "icon"))
        and not name.startswith(("js/bot/", "js/account/", "js/fleet/"))
        and not name.endswith("LICENSE")
    ]
    assert len(console.page.gzipped) + sum(len(asset.gzipped) for asset in first) <= 100_000
    assert gzip.decompress(console.page.gzipped) == console.page.body
