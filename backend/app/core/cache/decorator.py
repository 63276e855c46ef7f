"""`@cached`: a coroutine function whose results are kept under `<key_prefix>:<argument>:<argument>…`."""

from __future__ import annotations

import enum
import functools
import inspect
import re
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, ParamSpec, Protocol, TypeVar, cast
from urllib.parse import quote

from app.core.cache.cache import Cache
from app.core.cache.codec import Codec
from app.core.cache.policy import CachePolicy

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_SPECIAL = re.compile(r"[%:*?\[\]~]")
"""What would make two argument lists one key, or a key a pattern."""

_VARIADIC = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


class CachedFunction(Protocol[P, T_co]):
    """A coroutine function, called as before, that remembers its results."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T_co]: ...

    def key(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The key of a call; defaults filled in, so that `f(1)` and `f(id=1)` are one."""
        ...

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> int:
        """Forget the result of this very call."""
        ...


def remember(
    cache: Cache, fn: Callable[P, Awaitable[T]], key_prefix: str, codec: Codec, policy: CachePolicy
) -> CachedFunction[P, T]:
    """`fn`, answered from `cache` where possible. Raises `TypeError` for a function with `*args` or `**kwargs`."""
    key_of = _key_builder(fn, key_prefix)

    @functools.wraps(fn)
    async def remembered(*args: Any, **kwargs: Any) -> Any:
        return await cache.look_up(key_of(args, kwargs), functools.partial(fn, *args, **kwargs), codec, policy)

    async def invalidate(*args: Any, **kwargs: Any) -> int:
        return await cache.invalidate(key_of(args, kwargs))

    decorated: Any = remembered
    decorated.key = lambda *args, **kwargs: key_of(args, kwargs)
    decorated.invalidate = invalidate
    return cast("CachedFunction[P, T]", decorated)


def _key_builder(fn: Callable[..., Any], prefix: str) -> Callable[[tuple[Any, ...], dict[str, Any]], str]:
    signature = inspect.signature(fn)
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if kinds & _VARIADIC:
        raise TypeError(f"{prefix}: a function with *args or **kwargs has no cache key")
    arity = -1 if inspect.Parameter.KEYWORD_ONLY in kinds else len(signature.parameters)

    def key_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        values: Iterable[Any] = args
        if kwargs or len(args) != arity:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            values = bound.arguments.values()
        return ":".join((prefix, *map(_encode, values)))

    return key_of


def _encode(value: Any) -> str:
    """An argument as a part of a key. `1` and `"1"` are one; anything but an identifier-like value is refused."""
    if isinstance(value, enum.Enum):
        return _encode(value.value)
    if isinstance(value, str):
        return quote(value).replace("~", "%7E") if _SPECIAL.search(value) else value
    if value is None or value is True or value is False:
        return f"~{value}".lower()
    if isinstance(value, (int, uuid.UUID)):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be part of a cache key")
