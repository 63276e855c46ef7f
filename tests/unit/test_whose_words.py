"""The text of an error is used only where it is ours: every handler that turns what it caught into text names types
whose text we write (`core.errors.Expected`). The text of any other one may quote a row, a key or a customer."""

from __future__ import annotations

import ast
import asyncio
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.core.errors import Expected
from app.core.secrets import SecretError
from tests.support.source import parsed

SOURCE = Path(__file__).parents[2] / "backend" / "app"
OURS = (Expected, SecretError, asyncio.CancelledError)
"""A cancellation says what its `cancel` was given."""
NO_PRODUCT = {"sandbox", "localhost", "demo"}
"""Run on the developer's machine, with made-up customers."""
EXCEPTIONS = {
    "adapters/postgres_url.py": "of a connection that was refused; it repeats the name of an option of DATABASE_URL",
    "settings.py": "the `ValueError` of `RedisUrl.parse` says in our words what is wrong with a setting",
    "cli/sandbox.py": "it talks to the sandbox on the developer's machine",
}


def _is_product(path: Path) -> bool:
    return not NO_PRODUCT & {*path.parts} and str(path) not in EXCEPTIONS


def _product() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if _is_product(path.relative_to(SOURCE))]


def _texts(body: list[ast.stmt], name: str) -> Iterator[ast.expr | ast.FormattedValue]:
    """Where `name` becomes text: `str(name)`, `repr(name)`, in an f-string, or as what a log line is filled with."""
    for node in (each for statement in body for each in ast.walk(statement)):
        match node:
            case ast.Call(ast.Name("str" | "repr" | "format"), [ast.Name(given), *_]) if given == name:
                yield node
            case ast.FormattedValue(ast.Name(given)) if given == name:
                yield node
            case ast.Call(ast.Attribute(ast.Name("logger" | "click"), _), [*given]) if any(
                isinstance(each, ast.Name) and each.id == name for each in given
            ):
                yield node


def _types(node: ast.expr | None, path: Path) -> list[type[BaseException]]:
    if node is None:
        return [BaseException]
    if isinstance(node, ast.Tuple):
        return [each for part in node.elts for each in _types(part, path)]
    module = "app." + str(path.relative_to(SOURCE)).removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    found = eval(ast.unparse(node), _names(module))
    return list(found) if isinstance(found, tuple) else [found]


def _names(module: str) -> dict[str, object]:
    """Those of the module; and of the whole product, for commands that import where they need it."""
    importlib.import_module(module)
    known: dict[str, object] = {}
    for name in ("app.core.errors", "app.core.secrets", "app.core.http_client", "app.domain.errors"):
        known |= vars(importlib.import_module(name))
    return known | vars(sys.modules[module])


@pytest.mark.parametrize("path", _product(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_the_text_of_our_own_errors_is_used(path: Path) -> None:
    foreign = []
    for node in ast.walk(parsed(path)):
        if not isinstance(node, ast.ExceptHandler) or not node.name:
            continue
        uses = [f"line {use.lineno}: {ast.unparse(use)}" for use in _texts(node.body, node.name)]
        if uses and not all(issubclass(kind, OURS) for kind in _types(node.type, path)):
            foreign += uses
    assert not foreign, "say type and code instead: core/failure_words.py"
