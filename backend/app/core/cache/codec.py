"""Values between a source and the cache: JSON on the wire, frozen in memory.

A cached value is shared by every caller, so it must not be changed. `FrozenDict` and `FrozenList` are real dicts and
lists (they compare, iterate and serialise like them) whose mutators raise. To change one, copy it:
`dict(value)` one level deep, `copy.deepcopy(value)` throughout.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import hashlib
import uuid
from functools import lru_cache
from typing import Any, NoReturn, TypeVar, cast

import orjson
from pydantic import TypeAdapter

K = TypeVar("K")
V = TypeVar("V")

_ATOMS = (
    str, int, float, type(None), bytes, datetime.datetime, datetime.date, datetime.time, datetime.timedelta,
    decimal.Decimal, uuid.UUID, enum.Enum,
)  # fmt: skip
_JSON_ATOMS = frozenset({str, int, float, bool, type(None)})


def _refuse(self: object, *_args: object, **_kwargs: object) -> NoReturn:
    raise TypeError("a cached value is shared and frozen; change a copy of it")


class FrozenDict(dict[K, V]):
    """A dict that cannot be changed."""

    __slots__ = ()
    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # also of a copy, deep or not


class FrozenList(list[V]):
    """A list that cannot be changed."""

    __slots__ = ()
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


def freeze(value: Any) -> Any:
    """The same value, unchangeable all the way down. Frozen dataclasses are frozen in place, the rest is copied.

    Raises `TypeError` for what cannot be frozen: a dataclass that is not `frozen=True`, any other mutable object.
    """
    # What JSON is made of comes first: every value read from Redis goes through here.
    if isinstance(value, dict):
        frozen = dict(value)
        for key, item in value.items():
            if type(item) not in _JSON_ATOMS:
                frozen[key] = freeze(item)
        return FrozenDict(frozen)
    if isinstance(value, list):
        return FrozenList([item if type(item) in _JSON_ATOMS else freeze(item) for item in value])
    if isinstance(value, _ATOMS):
        return value
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(freeze(item) for item in value)
    if isinstance(value, (set, frozenset)):
        return frozenset(freeze(item) for item in value)
    if dataclasses.is_dataclass(value) and cast(Any, value).__dataclass_params__.frozen:
        for field in dataclasses.fields(value):
            object.__setattr__(value, field.name, freeze(getattr(value, field.name)))
        return value
    raise TypeError(f"{type(value).__name__} cannot be frozen; cache frozen dataclasses or plain JSON")


class Codec:
    """Plain JSON: dict, list, str, int, float, bool, None, nothing that comes back as something else.

    `fingerprint` tells shapes apart: part of the key of what is shared, so that a rolling deploy never reads a value
    of another version's shape.
    """

    fingerprint = "json"

    def dump(self, value: Any) -> bytes:
        """Raises `TypeError` for what JSON cannot hold."""
        return orjson.dumps(value)

    def load(self, data: bytes) -> Any:
        """A new frozen value. Raises `ValueError` for data that is not of this shape."""
        return freeze(orjson.loads(data))

    def detach(self, value: Any) -> tuple[Any, bytes]:
        """What another process would read if `value` were stored, and its JSON.

        Raises `TypeError` if that is not equal to `value`.
        """
        data = self.dump(value)
        back = self.load(data)
        if back != value:
            raise TypeError(f"{type(value).__name__} does not survive JSON; return plain JSON or pass `type=`")
        return back, data


class TypedCodec(Codec):
    """JSON of one type, or `None`: frozen dataclasses and what they are made of."""

    def __init__(self, kind: Any) -> None:
        self._adapter: TypeAdapter[Any] = TypeAdapter(kind | None)
        schema = orjson.dumps([repr(kind), self._adapter.json_schema()], option=orjson.OPT_SORT_KEYS)
        self.fingerprint = hashlib.sha256(schema).hexdigest()[:12]

    def dump(self, value: Any) -> bytes:
        return self._adapter.dump_json(value, warnings="error")

    def load(self, data: bytes) -> Any:
        return freeze(self._adapter.validate_json(data))


PLAIN = Codec()


@lru_cache(maxsize=256)
def codec_for(kind: Any) -> Codec:
    """The codec of a type, `None` for plain JSON. Building one is slow, so they are kept."""
    return PLAIN if kind is None else TypedCodec(kind)
