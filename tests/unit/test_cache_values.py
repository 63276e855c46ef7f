"""What the cache keeps: frozen values that come back as what they were; and the decorator."""

from __future__ import annotations

import copy
import enum
import inspect
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from app.core.cache import Cache, cached, default_cache
from app.domain.models import BotProfile
from tests.support.fakes import FakeClock, Source


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def cache(clock) -> Cache:
    return Cache(clock=clock, uniform=lambda: 0.0)


class TestValues:
    async def test_nobody_can_change_what_others_see(self, cache):
        original = {"list": [1, {"deep": 1}], "dict": {}}
        value = await cache.get_or_fetch("k", Source(original), ttl_seconds=300)
        changes = [
            lambda: value.__setitem__("x", 1), lambda: value["dict"].update(x=1), lambda: value["list"].append(1),
            lambda: value["list"][1].pop("deep"), value["list"].sort, lambda: value["list"].__imul__(2),
            lambda: value.setdefault("x", 1), lambda: value.__ior__({"x": 1}), lambda: value["list"].__delitem__(0),
        ]  # fmt: skip
        for change in changes:
            with pytest.raises(TypeError, match="frozen"):
                change()
        original["list"].append("changed by the source's owner")
        again = await cache.get_or_fetch("k", Source(), ttl_seconds=300)
        assert again == {"list": [1, {"deep": 1}], "dict": {}}

    async def test_they_are_still_dicts_and_lists(self, cache):
        value = await cache.get_or_fetch("k", Source({"a": [1, {"b": None}]}), ttl_seconds=300)
        assert isinstance(value, dict)
        assert isinstance(value["a"], list)
        assert json.loads(json.dumps(value)) == orjson.loads(orjson.dumps(value)) == value == {"a": [1, {"b": None}]}
        for clone in (copy.deepcopy(value), dict(value), value | {}, copy.copy(value)):
            clone["new"] = 1
        thawed = copy.deepcopy(value)
        thawed["a"][1]["b"] = 2
        assert value == {"a": [1, {"b": None}]}

    async def test_frozen_dataclasses_come_back_as_such_with_frozen_contents(self, cache):
        profile = BotProfile("1", custom_fields={"a": [1]}, updated_at=datetime(2026, 11, 23, 12, 30, 1, 5, UTC))
        found = await cache.get_or_fetch("k", Source(profile), ttl_seconds=300, type=BotProfile)
        assert found == profile
        assert found is not profile
        with pytest.raises(TypeError, match="frozen"):
            found.custom_fields["a"].append(2)
        assert await cache.get_or_fetch("none", Source(None), ttl_seconds=300, type=BotProfile) is None

    async def test_anything_made_of_them_works_too(self, cache):
        profiles = (BotProfile("1"), BotProfile("2"))
        found = await cache.get_or_fetch("k", Source(profiles), ttl_seconds=300, type=tuple[BotProfile, ...])
        assert found == profiles

    async def test_one_key_read_as_two_types_is_loaded_twice_not_confused(self, cache):
        assert await cache.get_or_fetch("k", Source({"account_id": "1"}), ttl_seconds=300) == {"account_id": "1"}
        found = await cache.get_or_fetch("k", Source(BotProfile("2")), ttl_seconds=300, type=BotProfile)
        assert found == BotProfile("2")

    @pytest.mark.parametrize(
        "value", [(1, 2), {1: 2}, {1, 2}, datetime.now(UTC), BotProfile("1"), float("nan"), object()]
    )
    async def test_what_json_would_change_is_refused(self, cache, value):
        with pytest.raises(TypeError):
            await cache.get_or_fetch("k", Source(value), ttl_seconds=300)

    async def test_a_mutable_dataclass_is_refused(self, cache):
        with pytest.raises(TypeError, match="frozen"):
            await cache.get_or_fetch("k", Source(Mutable()), ttl_seconds=300, type=Mutable)


@dataclass
class Mutable:
    things: Mapping[str, Any] = field(default_factory=dict)


class Colour(enum.Enum):
    RED = "red"


class TestDecorator:
    @pytest.fixture(autouse=True)
    async def _clean(self):
        yield
        await default_cache.invalidate("test:*")

    async def test_the_same_call_is_the_same_key_however_it_is_written(self):
        loads = 0

        @cached(ttl_seconds=300, key_prefix="test")
        async def load(user_id: str, page: int = 1, *, lang: str = "en") -> int:
            nonlocal loads
            loads += 1
            return loads

        assert {await load("1"), await load("1", 1), await load(user_id="1", page=1), await load("1", lang="en")} == {1}
        assert await load("1", 2) == 2
        assert await load("2") == 3
        assert load.key("1", page=2) == "test:1:2:en"
        assert await load.invalidate("1") == 1
        assert await load("1") == 4
        assert await load("1", 2) == 2

    async def test_arguments_can_neither_collide_nor_act_as_patterns(self):
        @cached(ttl_seconds=300, key_prefix="test")
        async def load(a, b): ...

        pairs = [("a:b", "c"), ("a", "b:c"), ("a%3Ab", "c"), (None, "c"), ("~none", "c"), (True, "c"), ("~true", "c"),
                 ("*", "c"), ("é", "c"), ("", "c")]  # fmt: skip
        keys = {load.key(*pair) for pair in pairs}
        assert len(keys) == len(pairs)
        assert not any(sign in key for key in keys for sign in "*?[")
        assert load.key("account_123", 7) == "test:account_123:7"
        unique = uuid.uuid4()
        assert load.key(unique, Colour.RED) == f"test:{unique}:red"

    async def test_what_identifies_nothing_is_refused(self):
        @cached(ttl_seconds=300, key_prefix="test")
        async def load(a): ...

        for value in (1.5, {}, [], object()):
            with pytest.raises(TypeError, match="cache key"):
                await load(value)
        with pytest.raises(TypeError, match="args"):

            @cached(ttl_seconds=300, key_prefix="test")
            async def variadic(*args): ...

    async def test_the_function_stays_a_coroutine_function_with_its_name(self):
        @cached(ttl_seconds=300, key_prefix="test")
        async def load(a: str) -> dict[str, Any]:
            """Doc."""
            return {"a": a}

        assert inspect.iscoroutinefunction(load)
        assert (load.__name__, load.__doc__) == ("load", "Doc.")
