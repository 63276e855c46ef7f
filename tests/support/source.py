"""The syntax trees of source files, for tests of how the code is written."""

from __future__ import annotations

import ast
import gc
from functools import cache
from pathlib import Path


@cache
def parsed(path: Path) -> ast.Module:
    """Without garbage collection meanwhile: what it ends may log a traceback, which parses too, and Python 3.11 then
    takes the outer tree for broken ("AST constructor recursion depth mismatch")."""
    gc.disable()
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    finally:
        gc.enable()
