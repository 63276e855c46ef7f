"""One whole run: traffic and faults side by side, quiet, verdict, table."""

from __future__ import annotations

import asyncio
import math
import random
import secrets
import time
from dataclasses import dataclass

from .events_out import PersonsCalled, Receiver, judge_events, listen, running_receiver
from .ingest import Ingest, full_moments, percentile
from .poison import poison
from .report import Report
from .schedule import LONG_PROCESSES, LONG_RULES, SHORT_PROCESSES, SHORT_RULES, Schedule
from .traffic import Traffic, conversation, sender
from .verdict import Verdict, judge
from .world import ChaosWorld

QUIET_SECONDS = 240.0
"""Gemini's circuit stays open for a minute, and a pair that got "too fast" is left alone for up to a minute."""
ACCEPT_SECONDS = 0.25
FULL_ACCEPT_SECONDS = 0.5
REFUSE_SECONDS = 1.1
"""A second, and what the driver itself needs."""
RESUME_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    messages: int
    conversations: int
    seconds: float
    seed: int
    full: bool
    """All faults and the slow poison; else the short list."""


async def run(world: ChaosWorld, plan: Plan) -> Report:
    """A receiver hears of every person that is called, and of each message of the last business."""
    async with running_receiver() as receiver:
        for number in range(len(world.businesses)):
            await listen(world, number, receiver.url, "conversation.needs_human")
        await listen(world, len(world.businesses) - 1, receiver.url, "message.received")
        return await _run(world, plan, receiver)


async def _run(world: ChaosWorld, plan: Plan, receiver: Receiver) -> Report:
    for business in world.businesses:  # a long conversation within minutes is played here, and is no loop of two robots
        await world.change_profile(business, auto_reply_limit=1000)
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
    calls = PersonsCalled(world, receiver, plan.seed, plan.seconds)
    looking = asyncio.create_task(full_moments(schedule.outages))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(traffic.run())
        tasks.create_task(schedule.run())
        tasks.create_task(calls.run())
        for body in bad.posts:
            tasks.create_task(poster.deliver(body))
    looking.cancel()
    messages = [*traffic.messages, *bad.healthy]
    try:
        quiet_after = await world.until_quiet(QUIET_SECONDS)
    except TimeoutError:
        quiet_after = math.inf
    verdict = await judge(world, messages, run=tag, accepted=traffic.accepted, dead=bad.letters, frozen=schedule.frozen)
    verdict.expect(quiet_after < math.inf, f"no rest within {QUIET_SECONDS:g} s")
    await judge_events(verdict, calls, heard=world.account_ids[world.businesses[-1].phone_number_id])
    await _counted_once(verdict, world, events=len(messages) + bad.letters)
    _nothing_secret(verdict, world, messages_people={str(m.person.wa_id) for m in messages})
    ingest = Ingest(poster.posts, schedule.outages, world.logs.webhook_seconds(), fallback=world.has_fallback)
    _within_bars(verdict, world, schedule)
    if plan.full:
        _fast_enough(verdict, ingest, schedule)
    return Report(
        plan.seed, plan.conversations, verdict, schedule.injected, ingest, traffic.repeats, schedule.recoveries,
        schedule.resumptions, quiet_after, time.monotonic() - started, world.logs.errors(),
    )  # fmt: skip


def _sizes(plan: Plan, rng: random.Random) -> list[int]:
    """How many messages each conversation has: some talk much, most little; at least one each."""
    sizes = [1] * plan.conversations
    weights = [rng.paretovariate(1.5) for _ in sizes]
    weights = [min(weight, 8.0) for weight in weights]
    for chosen in rng.choices(range(plan.conversations), weights, k=plan.messages - plan.conversations):
        sizes[chosen] += 1
    return sizes


async def _counted_once(verdict: Verdict, world: ChaosWorld, *, events: int) -> None:
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


def _nothing_secret(verdict: Verdict, world: ChaosWorld, messages_people: set[str]) -> None:
    for replica in world.fleet.replicas:
        world.logs.look(replica.log_file)
    verdict.expect(bool(world.logs.text), "the replicas logged nothing: nothing was checked")
    leaks = world.logs.secrets_in(world.secrets(), messages_people)
    verdict.expect(not leaks, f"the logs repeat what they must not: {leaks}")


def _within_bars(verdict: Verdict, world: ChaosWorld, schedule: Schedule) -> None:
    limit = world.lease_seconds + world.patience
    slow = [each.seconds for each in schedule.recoveries if each.seconds > limit and each.free_slots]
    verdict.expect(not slow, f"{len(slow)} conversations of killed replicas waited up to {max(slow, default=0):.1f} s")
    ambiguous = verdict.ambiguous_reconciled
    injected = schedule.injected["whatsapp drop_after"]
    verdict.expect(ambiguous <= injected + schedule.injected["kill_replica"] + schedule.injected["stop_replica"],
                   f"{ambiguous} ambiguous sends were reconciled, {injected} were injected")  # fmt: skip


def _fast_enough(verdict: Verdict, ingest: Ingest, schedule: Schedule) -> None:
    """Bars in milliseconds: for a machine that does nothing else. It carries three replicas, their servers, the sandbox
    and the driver: what it adds while it is full is in the table, and has a bar of its own."""
    p99, with_idle_time = percentile(ingest.judged, 0.99), percentile(ingest.with_idle_time, 0.99)
    verdict.expect(with_idle_time <= ACCEPT_SECONDS, f"the p99 of accepting is {with_idle_time * 1000:.0f} ms")
    verdict.expect(p99 <= FULL_ACCEPT_SECONDS, f"the p99 of accepting is {p99 * 1000:.0f} ms, full machine included")
    longest = max(ingest.refused, default=0)
    verdict.expect(longest <= REFUSE_SECONDS, f"a webhook was refused after {longest * 1000:.0f} ms")
    resumed = max(schedule.resumptions, default=0)
    verdict.expect(resumed <= RESUME_SECONDS, f"work resumed {resumed:.2f} s after Valkey was back")
