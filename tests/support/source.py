"""The syntax trees of source files, for tests of how the code is written, and the OpenAPI document."""

from __future__ import annotations

import ast
import gc
import json
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@cache
def parsed(path: Path) -> ast.Module:
    """Without garbage collection meanwhile: what it ends may log a traceback, which parses too, and Python 3.11 then
    takes the outer tree for broken ("AST constructor recursion depth mismatch")."""
    gc.disable()
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    finally:
        gc.enable()


@cache
def openapi_document() -> dict[str, Any]:
    """As it is in docs/, which `test_openapi` holds to the code: to make it anew takes each process 0.25 s."""
    document: dict[str, Any] = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))
    return document
