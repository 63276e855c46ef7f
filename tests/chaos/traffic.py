"""Numbered messages as Meta would deliver them: batched, repeated, spread over the replicas, and again until a 200.

What is in order and what is not: the next message of a conversation is posted only after the one before got its 200.
Meta promises no order between webhooks, so this is the only order that can be checked: that of the 200s (facts: per
conversation, processing follows the order of acceptance). Everything else is mixed: conversations interleave at random
in a lane, lanes run side by side, a POST carries messages of several conversations, and what was delivered comes again,
at once to another replica or later, shuffled into another batch.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.sandbox import webhooks as wa
from app.sandbox.delivery import Attempt, WebhookSender
from app.sandbox.webhooks import Business, JsonObject, Person

from .logs import SECRET_WORD

BATCHES = (1, 1, 1, 2, 3, 5)
REPEAT_RATE = 0.15
CATCH_UP = 1.5
"""What could not be delivered comes later, and Meta spreads it. At full speed the driver would measure how many
webhooks the machine can take, and call it their latency."""
POST_SECONDS = 2.0
"""Meta gives up after some 10 s; a load balancer takes a silent replica out sooner."""


@dataclass(frozen=True, slots=True)
class Message:
    conversation: int
    number: int
    id: str
    text: str
    person: Person
    business: Business

    @property
    def marker(self) -> str:
        return f"#c{self.conversation}m{self.number}"

    def node(self) -> JsonObject:
        return wa.text(self.person, self.text, id=self.id)


@dataclass(frozen=True, slots=True)
class Post:
    """One POST and what came of it. `status` 0: no answer."""

    at: float
    seconds: float
    status: int
    replica: int


class TimedSender(WebhookSender):
    """Remembers every POST."""

    posts: list[Post]

    async def post(self, raw: bytes) -> Attempt:
        started, clock = time.time(), time.perf_counter()
        attempt = await super().post(raw)
        seconds, replica = time.perf_counter() - clock, self.callback_urls.index(attempt.url)
        self.posts.append(Post(started, seconds, attempt.status or 0, replica))
        return attempt


def sender(urls: Sequence[str], *, app_secret: str, seed: int = 0) -> TimedSender:
    made = TimedSender(urls, app_secret=app_secret, timeout_seconds=POST_SECONDS, seed=seed)
    made.posts = []
    return made


def conversation(number: int, business: Business, *, count: int, run: str) -> list[Message]:
    person = Person(f"336{int(run, 16) % 10_000:04d}{number:04d}", f"Customer {number}")
    return [
        Message(
            number, m, f"wamid.chaos-{run}-c{number}m{m}", f"Do you have {SECRET_WORD} tart? #c{number}m{m}",
            person, business,
        )
        for m in range(count)
    ]  # fmt: skip


def payload(messages: Sequence[Message]) -> JsonObject:
    """One POST: a change per business, in it the messages in this order."""
    changes = []
    for business in dict.fromkeys(message.business for message in messages):
        own = [message for message in messages if message.business == business]
        people = list(dict.fromkeys(message.person for message in own))
        changes.append(wa.messages_change(business, [message.node() for message in own], people))
    return wa.envelope(*changes)


@dataclass
class Traffic:
    """`messages` over `conversations`, evenly over `seconds`, behind time at most `CATCH_UP` as fast; seeded."""

    sender: TimedSender
    conversations: list[list[Message]]
    seed: int
    seconds: float
    lanes: int = 24
    accepted: dict[str, float] = field(default_factory=dict)
    """When each message got its first 200."""
    repeats: int = 0
    """Deliveries of messages that were delivered before."""

    @property
    def messages(self) -> list[Message]:
        return [message for conversation in self.conversations for message in conversation]

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for lane in range(self.lanes):
                tasks.create_task(self._lane(lane))

    async def _lane(self, lane: int) -> None:
        rng = random.Random(f"{self.seed}-{lane}")
        queue = _interleaved(self.conversations[lane :: self.lanes], rng)
        total, sent, pace = len(queue), 0, self.seconds / max(1, len(queue))
        started = due = time.monotonic()
        while sent < total:
            await asyncio.sleep(due - time.monotonic())
            batch = queue[sent : sent + rng.choice(BATCHES)]
            body = payload(batch)
            if rng.random() < REPEAT_RATE / 2:
                await asyncio.gather(self.sender.deliver(body), self.sender.deliver(body))
                self.repeats += len(batch)
            else:
                await self.sender.deliver(body)
            now = time.time()
            self.accepted |= {message.id: now for message in batch}
            sent += len(batch)
            if rng.random() < REPEAT_RATE:
                again = rng.sample(queue[:sent], min(sent, rng.choice(BATCHES)))
                # Old news beside new: the next messages of the lane share a POST with what was delivered before.
                fresh = queue[sent : sent + 1]
                await self.sender.deliver(payload([*again, *fresh]))
                self.accepted |= {message.id: time.time() for message in fresh}
                self.repeats += len(again)
                sent += len(fresh)
            due = max(started + pace * sent, time.monotonic() + pace * len(batch) / CATCH_UP)


def _interleaved(conversations: Sequence[Sequence[Message]], rng: random.Random) -> list[Message]:
    """All messages in random order, but each conversation's own in theirs."""
    turns = [n for n, messages in enumerate(conversations) for _ in messages]
    rng.shuffle(turns)
    sources = [iter(messages) for messages in conversations]
    return [next(sources[n]) for n in turns]
