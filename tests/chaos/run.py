"""One whole run: traffic and faults side by side, quiet, verdict, table."""

from __future__ import annotations

import asyncio
import math
import random
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .poison import poison
from .schedule import LONG_PROCESSES, LONG_RULES, SHORT_PROCESSES, SHORT_RULES, Schedule
from .traffic import Post, Traffic, conversation, sender
from .verdict import Verdict, judge
from .world import World

QUIET_SECONDS = 240.0
"""Gemini's circuit stays open for a minute, and a pair that got "too fast" is left alone for up to a minute."""


@dataclass(frozen=True, slots=True)
class Plan:
    messages: int
    conversations: int
    seconds: float
    seed: int
    full: bool
    """All faults and the slow poison; else the short list."""


@dataclass(frozen=True, slots=True)
class Report:
    plan: Plan
    verdict: Verdict
    injected: Counter[str]
    posts: Sequence[Post]
    repeats: int
    recoveries: Sequence[float]
    resumptions: Sequence[float]
    quiet_after: float
    seconds: float
    outages: Sequence[tuple[float, float]]
    errors: Counter[str]
    """What the replicas logged as errors."""

    def _in_an_outage(self, post: Post) -> bool:
        return any(post.at < end and post.at + post.seconds > began for began, end in self.outages)

    def table(self) -> str:
        verdict, full = self.verdict, [post.seconds for post in self.posts if post.status == 200]
        refused = [post.seconds for post in self.posts if post.status == 503]
        calm = [post.seconds for post in self.posts if post.status == 200 and not self._in_an_outage(post)]
        silent = sum(not post.status for post in self.posts)
        rows = [
            ("seed", f"{self.plan.seed}"),
            ("faults injected", f"{sum(self.injected.values())}"),
            *((f"  {name}", str(count)) for name, count in sorted(self.injected.items())),
            ("messages (and repeats)", f"{verdict.messages} ({self.repeats})"),
            ("conversations", f"{self.plan.conversations}"),
            ("replies that arrived", f"{verdict.replies}"),
            ("lost", f"{verdict.lost}"),
            ("duplicated", f"{verdict.duplicated}"),
            ("ambiguous, reconciled by status", f"{verdict.ambiguous_reconciled}"),
            ("ambiguous, handed to people", f"{verdict.handed_over}"),
            ("dead letters (all poison)", f"{verdict.dead}"),
            ("webhook posts: 200 / 503 / no answer", f"{len(full)} / {len(refused)} / {silent}"),
            ("accept (200) p50 / p99", f"{_percentiles(full)}"),
            ("accept while nothing is away p50 / p99", f"{_percentiles(calm)}"),
            ("refuse (503) longest", f"{max(refused, default=0) * 1000:.0f} ms"),
            ("webhook -> send p50 / p99", f"{_percentiles(verdict.webhook_to_send)}"),
            ("taken over after SIGKILL: number, longest", _longest(self.recoveries)),
            ("work resumed after Valkey: number, longest", _longest(self.resumptions)),
            ("quiet after the last fault and message", f"{self.quiet_after:.1f} s"),
            ("whole run", f"{self.seconds:.0f} s"),
            ("lines logged as errors", f"{sum(self.errors.values())}"),
            *((f"  {words}", str(count)) for words, count in sorted(self.errors.items())),
        ]  # fmt: skip
        width = max(len(name) for name, _ in rows if not name.startswith("  "))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


async def run(world: World, plan: Plan) -> Report:
    started, tag = time.monotonic(), secrets.token_hex(3)
    rng = random.Random(f"{plan.seed}-traffic")
    sizes = _sizes(plan, rng)
    conversations = [
        conversation(number, world.businesses[number % len(world.businesses)], count=size, run=tag)
        for number, size in enumerate(sizes)
    ]
    poster = sender(world.fleet.webhook_urls, app_secret=world.fleet.keys.app_secret, seed=plan.seed)
    traffic = Traffic(poster, conversations, plan.seed, plan.seconds)
    bad = poison(world.businesses[0], first_conversation=plan.conversations, run=tag, slow=plan.full)
    schedule = Schedule(
        world, plan.seed, plan.seconds,
        processes=LONG_PROCESSES if plan.full else SHORT_PROCESSES, rules=LONG_RULES if plan.full else SHORT_RULES,
    )  # fmt: skip
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(traffic.run())
        tasks.create_task(schedule.run())
        for body in bad.posts:
            tasks.create_task(poster.deliver(body))
    messages = [*traffic.messages, *bad.healthy]
    try:
        quiet_after = await world.until_quiet(QUIET_SECONDS)
    except TimeoutError:
        quiet_after = math.inf
    verdict = await judge(world, messages, run=tag, accepted=traffic.accepted, dead=bad.letters)
    verdict.expect(quiet_after < math.inf, f"no rest within {QUIET_SECONDS:g} s")
    await _counted_once(verdict, world, events=len(messages) + bad.letters)
    _nothing_secret(verdict, world, messages_people={str(m.person.wa_id) for m in messages})
    _within_bars(verdict, world, schedule)
    return Report(
        plan, verdict, schedule.injected, poster.posts, traffic.repeats, schedule.recoveries, schedule.resumptions,
        quiet_after, time.monotonic() - started, schedule.outages, world.logs.errors(),
    )  # fmt: skip


def _sizes(plan: Plan, rng: random.Random) -> list[int]:
    """How many messages each conversation has: some talk much, most little; at least one each."""
    sizes = [1] * plan.conversations
    weights = [rng.paretovariate(1.5) for _ in sizes]
    weights = [min(weight, 8.0) for weight in weights]
    for chosen in rng.choices(range(plan.conversations), weights, k=plan.messages - plan.conversations):
        sizes[chosen] += 1
    return sizes


async def _counted_once(verdict: Verdict, world: World, *, events: int) -> None:
    """The one counter that survives every kill: the queue's dedupe marks, one for each event it ever took.

    Counters of a process die with it; `test_short_run` compares those in a run without kills."""
    marks = 0
    async for _ in world.redis.scan_iter(match="chorus:{q0}:d:*", count=10_000):
        marks += 1
    arrived = [send for send in await world.sandbox.record(kind="send") if send["processed"]]
    statuses = (await world.http.get(f"{world.sandbox.url}/sandbox")).json()["statuses"]
    verdict.expect(not statuses.get("given_up"), f"{statuses.get('given_up')} statuses could not be delivered")
    expected = events + 3 * len(arrived)
    verdict.expect(marks == expected, f"the queue took {marks} events, the record says {expected}")
    summary = await world.sandbox.summary()
    verdict.expect(not summary["evicted"], "the sandbox's record is incomplete")


def _nothing_secret(verdict: Verdict, world: World, messages_people: set[str]) -> None:
    for replica in world.fleet.replicas:
        world.logs.look(replica.log_file)
    verdict.expect(bool(world.logs.text), "the replicas logged nothing: nothing was checked")
    leaks = world.logs.secrets_in(world.secrets(), messages_people)
    verdict.expect(not leaks, f"the logs repeat what they must not: {leaks}")


def _within_bars(verdict: Verdict, world: World, schedule: Schedule) -> None:
    limit = world.lease_seconds + 1
    slow = [seconds for seconds in schedule.recoveries if seconds > limit]
    verdict.expect(not slow, f"{len(slow)} conversations of killed replicas waited up to {max(slow, default=0):.1f} s")
    ambiguous = verdict.ambiguous_reconciled
    injected = schedule.injected["whatsapp drop_after"]
    verdict.expect(ambiguous <= injected + schedule.injected["kill_replica"] + schedule.injected["stop_replica"],
                   f"{ambiguous} ambiguous sends were reconciled, {injected} were injected")  # fmt: skip


def _percentiles(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    ordered = sorted(seconds)
    return " / ".join(f"{ordered[min(len(ordered) - 1, int(len(ordered) * p))] * 1000:.0f} ms" for p in (0.5, 0.99))


def _longest(seconds: Sequence[float]) -> str:
    return f"{len(seconds)}, {max(seconds):.2f} s" if seconds else "0"
