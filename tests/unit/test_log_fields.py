"""What may be logged is a list: fields by name and form, words of ours, errors by type and code."""

from __future__ import annotations

import ast
from pathlib import Path
from uuid import UUID

import pytest

from app.core.log_fields import DROPPED, Form, admitted, allow_log_fields
from tests.support.source import parsed

SOURCE = Path(__file__).parents[2] / "backend" / "app"
LEVELS = frozenset({"debug", "info", "warning", "error", "exception", "critical", "log"})
CANONICAL = "_canonical.info(event, extra={'fields': fields})"
"""Inside `log_canonical`, whose own calls are looked at."""


def _product() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if not {"sandbox", "localhost", "demo"} & {*path.parts}]


def _calls(tree: ast.AST) -> list[ast.Call]:
    """Every call that writes a line."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name("log_canonical"):
                found.append(node)
            case ast.Attribute(ast.Name("logger" | "_canonical"), name) if name in LEVELS:
                found.append(node)
    return found


def _literal_keys(node: ast.AST) -> set[str]:
    """The keys written down anywhere inside an expression of dictionaries."""
    return {
        key.value for part in ast.walk(node) if isinstance(part, ast.Dict)
        for key in part.keys if isinstance(key, ast.Constant)
    }  # fmt: skip


def _assigned(tree: ast.AST, name: str) -> list[ast.AST]:
    return [
        node.value for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)
    ]  # fmt: skip


def _fields(call: ast.Call, tree: ast.AST) -> set[str]:
    if isinstance(call.func, ast.Name):
        return {keyword.arg for keyword in call.keywords if keyword.arg}
    extra = next((keyword.value for keyword in call.keywords if keyword.arg == "extra"), None)
    if extra is None:
        return set()
    names = [part.id for part in ast.walk(extra) if isinstance(part, ast.Name)]
    found = _literal_keys(extra)
    for name in names:
        for value in _assigned(tree, name):
            if isinstance(value, ast.Dict | ast.List | ast.ListComp | ast.BinOp):
                found |= _literal_keys(value)
    return found - {"fields"}


@pytest.mark.parametrize("path", _product(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_field_that_the_source_logs_is_on_the_list(path: Path) -> None:
    tree = parsed(path)
    missing = {name for call in _calls(tree) for name in _fields(call, tree) if "dropped" in admitted({name: None})}
    assert not missing, "add them to core/log_fields.py, with the form of their values"


@pytest.mark.parametrize("path", _product(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_log_line_is_put_together_from_values(path: Path) -> None:
    """The first argument is a template of ours; a formatted string would carry what it was made of past the list."""
    for call in _calls(parsed(path)):
        if (
            isinstance(call.func, ast.Attribute)
            and call.args
            and call.func.attr != "log"
            and ast.unparse(call) != CANONICAL
        ):
            assert isinstance(call.args[0], ast.Constant), ast.unparse(call)


def test_a_field_that_is_not_on_the_list_is_dropped_and_named() -> None:
    assert admitted({"conversation": "c1", "colour": "red"}) == {"conversation": "c1", "dropped": ["colour"]}


@pytest.mark.parametrize(
    "value", ["Amina Smith", "two words", "ab" * 81, "line\nbreak", {"a": "b"}, b"bytes", object()]
)
def test_a_code_is_one_word(value: object) -> None:
    assert admitted({"conversation": value}) == {"conversation": DROPPED}


@pytest.mark.parametrize("value", ["12", "Amina", [1], {}])
def test_a_number_is_a_number(value: object) -> None:
    assert admitted({"attempt": value}) == {"attempt": DROPPED}


def test_ids_lists_of_codes_and_small_maps_are_kept() -> None:
    fields = {
        "account": UUID(int=7), "messages": ["0f1e2d", "a:b#1"], "stages_ms": {"store": 1.5, "send": 2},
        "ms": 1.25, "warm": True, "reply": None, "reason": "database away: 57P01",
    }  # fmt: skip
    assert admitted(fields) == fields


def test_texts_of_others_are_dropped_from_a_map() -> None:
    given = {"details": {"decision": "REJECTED", "reason": "Amina Smith asked", "two words": "x"}}
    assert admitted(given) == {"details": {"decision": "REJECTED", "reason": DROPPED}}


def test_a_sentence_has_an_end() -> None:
    assert len(admitted({"reason": "x" * 5000})["reason"]) == 300


def test_a_deployment_may_add_a_field_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.core.log_fields._FIELDS", {})
    allow_log_fields(region=Form.CODE)
    assert admitted({"region": "eu"}) == {"region": "eu"}
