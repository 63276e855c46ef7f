"""`chorus fleet` and `chorus queue`: straight from Redis, so that they also work when no replica answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import click

from app.core.config import Settings, load_settings

if TYPE_CHECKING:
    from app.core.queue import DeadLetter, Queue
    from app.core.registry import Replica

T = TypeVar("T")

PAGE = 200


@click.command("fleet")
def fleet() -> None:
    """Every living replica: version, build, host, role, state, load, and the circuits it does not see closed."""
    replicas = asyncio.run(_replicas())
    click.echo(
        f"{'replica':<40} {'version':<24} {'role':<7} {'state':<9} {'health':<9} {'busy':>9} {'up':>8} {'beat':>6}"
        "  circuits"
    )
    for replica in replicas:
        info = replica.info
        busy = f"{info.get('active', 0)}/{info.get('concurrency', '?')}" if info.get("role") != "api" else "-"
        circuits = ", ".join(f"{name} {state}" for name, state in info.get("breakers", {}).items() if state != "closed")
        click.echo(
            f"{replica.id:<40} {_version(info):<24} {info.get('role', '?'):<7} {info.get('phase', '?'):<9} "
            f"{info.get('status', '?'):<9} {busy:>9} {_span(time.time() - info.get('started_at', time.time())):>8} "
            f"{replica.silent_seconds:>4.1f} s  {circuits}".rstrip()
        )
    click.echo(f"{len(replicas)} alive" if replicas else "no replica is alive")


def _version(info: Mapping[str, Any]) -> str:
    """Two builds of one version differ in what stands in brackets."""
    version = str(info.get("version", "?"))
    return f"{version} ({info['build'][:16]})" if info.get("build") else version


@click.group("queue")
def queue() -> None:
    """Messages that wait, and those that were given up on (dead letters)."""


@queue.command("status")
def status() -> None:
    """How much waits, and for how long."""
    stats = asyncio.run(_on_queue(lambda q: q.stats()))
    click.echo(f"{stats.pending:8d}  events waiting or being handled, the oldest for {_span(stats.oldest_seconds)}")
    click.echo(f"{stats.ready:8d}  conversations waiting: due, debounced or in back-off")
    click.echo(f"{stats.leased:8d}  conversations held by a worker")
    hint = f", {stats.dead_bytes} bytes (chorus queue dead)" if stats.dead else ""
    click.echo(f"{stats.dead:8d}  dead letters{hint}")
    if stats.dead_lost:
        click.echo(f"{stats.dead_lost:8d}  dead letters lost: the oldest had to make room")


@queue.command("dead")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@click.option("--after", help="Go on after this id.")
def dead(limit: int, after: str | None) -> None:
    """List dead letters, oldest first: id, when, attempts, event, field, and why. Never what a customer wrote."""
    from app.services.dead_letters import view

    letters, more = asyncio.run(_on_queue(lambda q: q.dead(limit=limit, cursor=_cursor(after))))
    for letter in map(view, letters):
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(letter["parked_at"]))
        what = " ".join(part for part in (letter["event"], letter["field"]) if part)
        click.echo(f"{letter['id']:<24} {when}  {letter['attempts']} attempts  {what}  {letter['reason']}")
    if more:
        click.echo(f"there are more: chorus queue dead --after {more}")
    if not letters:
        click.echo("no dead letters")


@queue.command("replay")
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every dead letter there is now.")
def replay(ids: tuple[str, ...], *, everything: bool) -> None:
    """Put dead letters back into their conversations; they are handled as if they had just arrived."""
    done = asyncio.run(_on_queue(lambda q: _each(q, _chosen(ids, everything=everything), q.replay)))
    click.echo(f"replayed {done}")


@queue.command("drop")
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every dead letter there is now.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop(ids: tuple[str, ...], *, everything: bool, yes: bool) -> None:
    """Forget dead letters for good."""
    chosen = _chosen(ids, everything=everything)
    if not yes:
        what = "EVERY dead letter" if chosen is None else f"{len(chosen)} dead letters"
        click.confirm(f"Forget {what} for good?", abort=True)
    done = asyncio.run(_on_queue(lambda q: _each(q, chosen, q.drop)))
    click.echo(f"dropped {done}")


def _chosen(ids: tuple[str, ...], *, everything: bool) -> Sequence[str] | None:
    """`None`: all of them."""
    if everything == bool(ids):
        raise click.UsageError("name ids (chorus queue dead lists them), or --all")
    return None if everything else ids


async def _each(queue: Queue, ids: Sequence[str] | None, act: Callable[[Sequence[str]], Awaitable[int]]) -> int:
    if ids is not None:
        return await act(ids)
    # The whole list first: what is replayed may fail again and come back at its end.
    letters: list[DeadLetter] = []
    cursor: str | None = None
    while True:
        page, cursor = await queue.dead(limit=PAGE, cursor=cursor)
        letters += page
        if cursor is None:
            break
    done = 0
    for start in range(0, len(letters), PAGE):
        done += await act([letter.id for letter in letters[start : start + PAGE]])
    return done


def _cursor(after: str | None) -> str | None:
    if after is not None and not after.replace("-", "").isdecimal():
        raise click.UsageError(f"--after takes an id as the list shows it, not {after!r}")
    return after


async def _replicas() -> list[Replica]:
    from app.core.redis import connect
    from app.core.registry import Registry
    from app.wiring import REDIS_TIMEOUT_SECONDS

    settings = _settings()
    async with AsyncExitStack() as stack:
        redis = connect(settings.redis_url or "", timeout_seconds=REDIS_TIMEOUT_SECONDS)
        stack.push_async_callback(redis.aclose)
        return await Registry(redis, namespace=settings.redis_namespace, replica_id="cli").replicas()


async def _on_queue(action: Callable[[Queue], Awaitable[T]]) -> T:
    from app.core.redis import connect
    from app.wiring import REDIS_TIMEOUT_SECONDS, open_queue

    settings = _settings()
    async with AsyncExitStack() as stack:
        redis = connect(settings.redis_url or "", timeout_seconds=REDIS_TIMEOUT_SECONDS)
        stack.push_async_callback(redis.aclose)
        return await action(open_queue(settings, stack, redis))


def _settings() -> Settings:
    settings = load_settings()
    settings.check_redis()
    return settings


def _span(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


COMMANDS: Sequence[Any] = (fleet, queue)
