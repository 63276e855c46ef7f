"""A block of a page that a benchmark writes anew: between the lines `<!-- name -->` and `<!-- /name -->`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tests.bench.child import BenchError


def write_block(page: Path, name: str, lines: Sequence[str]) -> None:
    """Raises `BenchError` when the page has no such block."""
    text = page.read_text(encoding="utf-8")
    block = f"<!-- {name} -->\n" + "\n".join(lines) + f"\n<!-- /{name} -->\n"
    written, count = re.subn(
        rf"^<!-- {name} -->\n.*?^<!-- /{name} -->\n", lambda _: block, text, flags=re.MULTILINE | re.DOTALL
    )
    if count != 1:
        raise BenchError(f"{page.name} has {count} blocks {name}")
    page.write_text(written, encoding="utf-8")
