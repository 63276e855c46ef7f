"""`chorus cache`: what the replicas share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

import click

from app.cli.exit_codes import FAILED
from app.cli.output import json_option, print_json
from app.cli.settings import REDIS_IN_USE, settings_with_redis

if TYPE_CHECKING:
    from app.core.cache import Cache
    from app.core.cache.inspection import KeyView
    from app.core.cache.shared import SharedTier

T = TypeVar("T")

TRIES = 3
BETWEEN_SECONDS = 1.0


@click.group()
def cache() -> None:
    """What the replicas share: look, and forget. What a replica has in memory is at its /admin/cache."""


@cache.command("stats")
@json_option
def cache_stats(*, as_json: bool) -> None:
    """Count what Redis holds, group by group. Goes through all its keys."""
    from app.core.cache import survey

    view = asyncio.run(_with_shared_cache(lambda _cache, shared: survey(shared)))
    if as_json:
        print_json({"values": dict(sorted(view.values.items())), "held": view.held})
        return
    for group, count in sorted(view.values.items()):
        click.echo(f"{count:8d}  {group or '(no group)'}")
    click.echo(f"{sum(view.values.values()):8d}  values; {view.held} loads or writers under way")


@cache.command("invalidate")
@click.argument("patterns", nargs=-1, required=True)
def cache_invalidate(patterns: tuple[str, ...]) -> None:
    """Forget keys, groups (user:*) or globs on every replica. Exit code 3 if Redis did not take it."""
    asyncio.run(_with_shared_cache(lambda cache, _shared: cache.invalidate_everywhere(*patterns)))
    click.echo(f"forgotten: {', '.join(patterns)}")


@cache.command("inspect")
@click.argument("key")
@click.option("--value", is_flag=True, help="Show the values too; an account's contain its verify token.")
@json_option
def cache_inspect(key: str, *, value: bool, as_json: bool) -> None:
    """Show what Redis holds of one key. Exit code 1 if it holds nothing."""
    from app.core.cache import inspect_key

    view = asyncio.run(_with_shared_cache(lambda _cache, shared: inspect_key(shared, key)))
    if as_json:
        copies = [asdict(copy) | {"json": copy.json if value else None} for copy in view.copies]
        print_json(asdict(view) | {"copies": copies})
    else:
        _show(view, value=value)
    if not view.copies and not view.held_by:
        raise SystemExit(FAILED)


def _show(view: KeyView, *, value: bool) -> None:
    if view.held_by:
        click.echo(f"held by {view.held_by} for at most {view.held_seconds:.1f} s")
    for copy in view.copies:
        state = (
            f"fresh for {copy.fresh_seconds:.0f} s" if copy.counts and copy.fresh_seconds > 0 else "no longer an answer"
        )
        click.echo(f"{len(copy.json)} bytes of schema {copy.fingerprint}, {state}, kept for {copy.kept_seconds:.0f} s")
        if value:
            click.echo(copy.json.decode())
    if not view.copies:
        click.echo("no value")


async def _with_shared_cache(act: Callable[[Cache, SharedTier], Awaitable[T]]) -> T:
    from app.core.cache import Cache, join_fleet
    from app.core.errors import Unavailable
    from app.wiring import open_door

    settings = settings_with_redis()
    url = settings.redis_cache_url or settings.redis_url or ""
    if settings.redis_cache_url:
        click.get_current_context().meta[REDIS_IN_USE] = ("REDIS_CACHE_URL", url)
    async with AsyncExitStack() as stack:
        # Asked first: joining a fleet whose Redis is away is no error, and its later calls only know that it is.
        await open_door(url, stack).ask("PING", urgent=True)
    cache = Cache()
    async with join_fleet(cache, url, namespace=settings.redis_namespace) as shared:
        first: Unavailable | None = None
        for _ in range(TRIES):
            try:
                return await act(cache, shared)
            except Unavailable as exc:  # the cache's limits are those of a customer's request; a person can wait
                first = first or exc  # later ones only say that it was away a moment ago
                await asyncio.sleep(BETWEEN_SECONDS)
        assert first is not None  # noqa: S101  the loop ran
        raise first
