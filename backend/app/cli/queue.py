"""`chorus queue`: straight from Redis, so that it also works when no replica answers."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

import click

from app.cli.exit_codes import FAILED
from app.cli.output import json_option, print_json, span
from app.cli.settings import settings_with_redis

if TYPE_CHECKING:
    from app.core.queue import DeadLetter, Queue
    from app.services.dead_letters import DeadLetterList
    from app.services.namespace_gate import Binding

T = TypeVar("T")

PAGE = 200
_ID = re.compile(r"e?\d{1,4}-\d{1,19}-\d{1,19}", re.ASCII)


@click.group("queue")
def queue() -> None:
    """Messages that wait, and those that were given up on (dead letters)."""


@queue.command("status")
@json_option
def status(*, as_json: bool) -> None:
    """How much waits, and for how long."""
    stats, told = asyncio.run(_on_queues(lambda messages, events: asyncio.gather(messages.stats(), events.stats())))
    if as_json:
        print_json({**asdict(stats), "for_other_systems": asdict(told)})
        return
    click.echo(f"{stats.pending:8d}  events waiting or being handled, the oldest for {span(stats.oldest_seconds)}")
    click.echo(f"{stats.ready:8d}  conversations waiting: due, debounced or in back-off")
    click.echo(f"{stats.leased:8d}  conversations held by a worker")
    hint = f", {stats.dead_bytes} bytes (chorus queue dead)" if stats.dead else ""
    click.echo(f"{stats.dead:8d}  dead letters{hint}")
    if stats.dead_lost:
        click.echo(f"{stats.dead_lost:8d}  dead letters lost: the oldest had to make room")
    click.echo(f"{told.pending:8d}  events for other systems waiting, {told.dead} dead letters")


@queue.command("dead")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 1000))
@click.option("--after", help="Go on after this id.")
@json_option
def dead(limit: int, after: str | None, *, as_json: bool) -> None:
    """List dead letters, oldest first, messages before events for other systems (their ids begin with e): id, when,
    attempts, event, field, and why. Never what a customer wrote."""
    from app.services.dead_letters import view

    letters, more = asyncio.run(_on_letters(lambda letters: _page(letters, limit, _cursor(after))))
    if as_json:
        print_json({"items": [view(letter) for letter in letters], "next": more})
        return
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
    """Put dead letters back into their conversations; they are handled as if they had just arrived. Events are told to
    their webhook again.

    Exit code 1 if one of the ids does not exist; the others are replayed.
    """
    chosen = _chosen(ids, everything=everything)
    _report("replayed", *asyncio.run(_on_letters(lambda letters: _each(letters, chosen, letters.replay))))


@queue.command("drop")
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every dead letter there is now.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop(ids: tuple[str, ...], *, everything: bool, yes: bool) -> None:
    """Forget dead letters for good. Exit code 1 if one of the ids does not exist; the others are dropped."""
    chosen = _chosen(ids, everything=everything)
    if not yes:
        what = "EVERY dead letter" if chosen is None else f"{len(chosen)} dead letters"
        click.confirm(f"Forget {what} for good?", abort=True)
    _report("dropped", *asyncio.run(_on_letters(lambda letters: _each(letters, chosen, letters.drop))))


@queue.command("rebind")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rebind(*, yes: bool) -> None:
    """Give the Redis namespace to this database, after a deliberate move: a backup restored into a new cluster, an
    upgrade that made one.

    Stop every replica that works on the other database first: they would go on taking messages from this queue.
    """
    bound, identity = asyncio.run(_on_bindings(lambda binding, _: binding.read()))
    if not yes and set(bound.values()) - {None, identity}:
        names = ", ".join(sorted({_short(each) for each in bound.values() if each not in (None, identity)}))
        click.confirm(f"The namespace belongs to {names}. Give it to {_short(identity)}?", abort=True)
    before, _ = asyncio.run(_on_bindings(lambda binding, ours: binding.rebind(ours)))
    for setting, was in before.items():
        state = "was this database's already" if was == identity else f"belonged to {_short(was) if was else 'none'}"
        click.echo(f"{setting}: {state}; now it is {_short(identity)}'s")


def _short(identity: str | None) -> str:
    from app.services.namespace_gate import short

    return short(identity or "")


async def _on_bindings(
    act: Callable[[Binding, str], Awaitable[str | None]],
) -> tuple[dict[str, str | None], str]:
    """What `act` says of each Redis in use, by its setting, and this database's identity."""
    from app.adapters.database_trouble import operator_policy
    from app.core.http_client import close_http_client
    from app.wiring import open_bindings, open_door, open_store

    settings = settings_with_redis()
    settings.check_database()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(close_http_client)
        redis = open_door(settings.redis_url or "", stack)
        bindings = open_bindings(settings, stack, redis)
        store = await open_store(settings, policy=operator_policy())
        stack.push_async_callback(store.aclose)
        identity = await store.database_identity()
        return {setting: await act(binding, identity) for setting, binding in bindings.items()}, identity


def _report(what: str, done: int, missing: Sequence[str]) -> None:
    click.echo(f"{what} {done}")
    for letter_id in missing:
        click.echo(f"chorus: no dead letter {letter_id}", err=True)
    if missing:
        raise SystemExit(FAILED)


def _chosen(ids: tuple[str, ...], *, everything: bool) -> Sequence[str] | None:
    """`None`: all of them."""
    if everything == bool(ids):
        raise click.UsageError("name ids (chorus queue dead lists them), or --all")
    return None if everything else ids


async def _each(
    dead: DeadLetterList, ids: Sequence[str] | None, act: Callable[[Sequence[str]], Awaitable[int]]
) -> tuple[int, list[str]]:
    """How many it was done to, and the ids that do not exist."""
    if ids is not None:
        missing = [letter_id for letter_id in dict.fromkeys(ids) if not await act([letter_id])]
        return len(dict.fromkeys(ids)) - len(missing), missing
    # The whole list first: what is replayed may fail again and come back at its end.
    letters: list[DeadLetter] = []
    cursor: str | None = None
    while True:
        page, cursor = await dead.page(limit=PAGE, cursor=cursor)
        letters += page
        if cursor is None:
            break
    done = 0
    for start in range(0, len(letters), PAGE):
        done += await act([letter.id for letter in letters[start : start + PAGE]])
    return done, []


async def _page(dead: DeadLetterList, limit: int, after: str | None) -> tuple[list[DeadLetter], str | None]:
    try:
        return await dead.page(limit=limit, cursor=after)
    except ValueError:
        raise click.UsageError(f"--after takes an id as the list shows it, not {after!r}") from None


def _cursor(after: str | None) -> str | None:
    if after is not None and not _ID.fullmatch(after):
        raise click.UsageError(f"--after takes an id as the list shows it, not {after!r}")
    return after


async def _on_letters(action: Callable[[DeadLetterList], Awaitable[T]]) -> T:
    from app.services.dead_letters import DeadLetterList

    return await _on_queues(lambda messages, events: action(DeadLetterList(messages.dead_letters, events.dead_letters)))


async def _on_queues(action: Callable[[Queue, Queue], Awaitable[T]]) -> T:
    """Given the queue of messages, and that of events for other systems."""
    from app.wiring import open_door, open_events_queue, open_queue

    settings = settings_with_redis()
    async with AsyncExitStack() as stack:
        redis = open_door(settings.redis_url or "", stack)
        return await action(open_queue(settings, stack, redis), open_events_queue(settings, stack, redis))
