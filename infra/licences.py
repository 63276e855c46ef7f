"""Prints docs/licences.md: every package that an installation runs, and under what licence (`make licences`)."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements-runtime.lock"
VENDORED = ROOT / "backend" / "app" / "console" / "static" / "vendor" / "vendor.lock.json"
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ \\;]+)", re.MULTILINE)

ALLOWED = re.compile(
    r"MIT|BSD|Apache|ISC|Python Software Foundation|PSF-2\.0|MPL-2\.0|Mozilla Public License 2\.0|CNRI-Python"
)
"""Licences under which a service may run a library unchanged, and pass it on in an image."""

HEAD = """# Licences

What `requirements-runtime.lock` installs, and the licence that each package declares. Written by `make licences`; a
test refuses a package that is missing here, and a licence that is not on the list in `infra/licences.py`. Chorus is
MIT. What only tests use is in no installation and not listed.

| package | licence |
|---|---|
"""


def pinned() -> list[str]:
    return sorted({name.lower() for name, _ in PIN.findall(LOCK.read_text(encoding="utf-8"))})


def licence_of(name: str) -> str | None:
    """As the package declares it: an SPDX expression, its classifiers, or its one-line field. `None`: it is not
    installed, because it is another platform's."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    if expression := about.get("License-Expression"):
        return str(expression)
    classifiers = [
        line.rpartition(" :: ")[2] for line in about.get_all("Classifier", []) if line.startswith("License :: ")
    ]
    told = [line for line in classifiers if line != "OSI Approved"]
    return ", ".join(sorted(told)) or (about.get("License") or "not declared").splitlines()[0]


def table() -> dict[str, str]:
    found = {name: licence_of(name) for name in pinned()}
    return {name: licence for name, licence in found.items() if licence is not None}


VENDORED_HEAD = """

The console's modules, which the package brings (`backend/app/console/static/vendor/`, with their licences' texts;
`make vendor` renews them):

| module | licence |
|---|---|
"""


def vendored() -> dict[str, str]:
    packages = json.loads(VENDORED.read_text(encoding="utf-8"))["packages"]
    return {f"{package['name']} {package['version']}": package["licence"] for package in packages}


def _rows(licences: dict[str, str]) -> str:
    return "\n".join(f"| {name} | {licence} |" for name, licence in licences.items())


if __name__ == "__main__":
    print(HEAD + _rows(table()) + VENDORED_HEAD + _rows(vendored()))
