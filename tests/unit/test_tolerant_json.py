"""JSON from outside is read as far as it can be, and what we write every reader takes."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.tolerant_json import MAX_DEPTH, dumps, loads, loads_shallow, plain, sketch

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=20,
)


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = {"a": value} if level % 2 else [value]
    return value


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (rb'"caf\u00e9 \ud83d"', "café \ufffd"),
        (rb'"\ude00\ud83d"', "\ufffd\ufffd"),
        (rb'"\ud83d\ude00 \ud83d"', "\U0001f600 \ufffd"),
        (rb'{"\ud83d": 1}', {"\ufffd": 1}),
        (b'"\xff"', "\ufffd"),
        (b"[NaN, Infinity, -Infinity, 1e999]", [None, None, None, None]),
        (b"9" * 5000, None),
        (b"\xef\xbb\xbf[1]", [1]),
    ],
)
def test_what_others_refuse_is_replaced_alone(raw: bytes, value: Any) -> None:
    assert loads(raw) == value


@pytest.mark.parametrize("raw", [b"", b"{", b"x", b"\xff", b"[1,]", b'{"a" 1}', b"[" * 5000])
def test_what_is_no_json_is_an_error(raw: bytes) -> None:
    with pytest.raises(json.JSONDecodeError):
        loads(raw)


@pytest.mark.parametrize("depth", [MAX_DEPTH, 254, 1000, 1024, 1025, 100_000])
def test_any_depth_is_read_and_what_is_beside_it_stays(depth: int) -> None:
    opening = b'{"a":' * (depth - 1)
    value = loads(b'[{"deep":' + opening + b"1" + b"}" * (depth - 1) + b'}, "beside ]}[{\\"", [1]]')
    assert value[1:] == ['beside ]}[{"', [1]]


@given(ANYTHING)
def test_what_is_written_can_be_read_by_everybody(value: Any) -> None:
    text = dumps(value)
    assert orjson.loads(text) == plain(orjson.loads(text))
    text.decode().encode("utf-8")


@given(ANYTHING)
def test_what_python_writes_is_read(value: Any) -> None:
    orjson.dumps(loads(json.dumps(value).encode()))


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 200, 254, 255, 900])
def test_nothing_deeper_than_the_limit_is_handled(depth: int) -> None:
    value = loads_shallow(dumps({"beside": 1, "deep": nested(depth)}))
    assert depth_of(value) <= MAX_DEPTH
    assert value["beside"] == 1


def test_many_brackets_side_by_side_are_no_depth() -> None:
    value = [{"a": [1]}] * 1000
    assert loads_shallow(dumps(value)) == value


def test_a_sketch_has_names_and_types_and_no_contents() -> None:
    text = sketch({"messages": [{"from": "34610000016", "text": {"body": "secret"}}], "n": None, "x": 1.5})
    assert text == "{messages: [1 x {from: str, text: {body: str}}], n: null, x: float}"
    assert len(sketch({f"key{n}": nested(100) for n in range(10_000)})) <= 500
