"""One fault at a time, with every step in our hand. Each fails, with `Broken`, when its promise does not hold.

`test_processes.py` runs them on the code as it is; `mutations.py` on copies with a safeguard taken out, where they must
fail: that is the check that the check can fail.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from app.sandbox.webhooks import Business, JsonObject, envelope, messages_change, text

from .traffic import Message, conversation, payload, sender
from .verdict import judge
from .world import FALLBACK_TEXT, ChaosWorld

QUIET_SECONDS = 60.0
MOST_PROBES = 20
RECOVERY_SECONDS = 10.0
"""Of what a wiped Redis has lost and Postgres has."""
SETTINGS = {
    "LEASE_SECONDS": "2", "DEBOUNCE_SECONDS": "1", "SEND_RECONCILE_SECONDS": "3", "REPLY_DEADLINE_SECONDS": "15",
}  # fmt: skip
"""A debounce long enough to act while a message waits for it."""


OWN_MODEL = "gemini-2.5-flash"
"""One that the sandbox has beside the default."""


class Broken(AssertionError):
    """The promise did not hold."""


class Stage:
    """Conversations of one scenario; its marks are its own, so that several can share a world."""

    def __init__(self, world: ChaosWorld) -> None:
        self.world = world
        self.run = secrets.token_hex(3)
        self.messages: list[Message] = []
        self._number = 0

    def conversation(self, count: int, business: Business | None = None) -> list[Message]:
        messages = conversation(self._number, business or self.world.businesses[0], count=count, run=self.run)
        self._number += 1
        return messages

    async def post(self, *messages: Message, replica: int) -> None:
        """Until a 200. Messages that are new are expected to be answered."""
        await self.deliver(payload(messages), replica=replica)
        self.messages += [message for message in messages if message not in self.messages]

    async def deliver(self, post: JsonObject, *, replica: int) -> None:
        urls = [self.world.fleet.webhook_urls[replica]]
        await sender(urls, app_secret=self.world.fleet.keys.app_secret).deliver(post)

    @contextmanager
    def only(self, number: int) -> Iterator[None]:
        """Nobody but this replica works: the others are stopped, and held nothing before."""
        others = [replica for n, replica in enumerate(self.world.fleet.replicas) if n != number]
        for replica in others:
            replica.pause()
        try:
            yield
        finally:
            for replica in others:
                replica.resume()

    async def sends(self, count: int, *messages: Message, timeout_seconds: float = 30) -> list[dict[str, object]]:
        """The sends that reached these customers, once there are `count` to each."""
        found = [
            await self.world.sandbox.wait(
                count, kind="send", processed="true", to=person.wa_id, timeout_seconds=timeout_seconds
            )
            for person in dict.fromkeys(message.person for message in messages)
        ]
        return [send for sends in found for send in sends]

    async def begin_with_closed_circuit(self) -> None:
        """Customers are answered until Gemini's circuit is closed. One that an earlier scenario left half open lets one
        question through at a time: a first one that hangs would hold back all that come after it."""
        for _ in range(MOST_PROBES):
            health = await self.world.api("GET", "/health")
            if health["circuit_breakers"]["gemini"]["state"] == "closed":
                return
            talk = self.conversation(1)
            await self.post(*talk, replica=0)
            await self.sends(1, *talk)
        raise Broken("Gemini's circuit does not close")

    async def ends_well(self) -> None:
        try:
            await self.world.until_quiet(QUIET_SECONDS)
        except TimeoutError:
            raise Broken("the queue does not come to rest") from None
        verdict = await judge(self.world, self.messages, run=self.run)
        if verdict.problems:
            raise Broken("; ".join(verdict.problems))


async def killed_while_generating(world: ChaosWorld) -> None:
    """A killed replica's conversations are answered by the others within lease + 1 s, once."""
    stage = Stage(world)
    hang = await world.sandbox.add_fault("gemini", action="hang_before")
    before = (await world.sandbox.summary())["last_seq"]
    with stage.only(0):
        talks = [stage.conversation(1)[0] for _ in range(20)]
        await stage.post(*talks, replica=0)
        await world.sandbox.wait(len(talks), kind="generate", after=before)
    await asyncio.to_thread(world.fleet.replicas[0].kill)
    died_at = time.time()
    await world.sandbox.remove_fault(hang)
    try:
        sends = await stage.sends(1, *talks)
    finally:
        await world.restart(0)
    slowest = max(float(str(send["at"])) for send in sends) - died_at
    if slowest > world.lease_seconds + world.patience:
        raise Broken(f"the last conversation of the dead replica was answered after {slowest:.2f} s")
    await stage.ends_well()


async def killed_between_send_and_record(world: ChaosWorld) -> None:
    """Accepted by WhatsApp, not yet recorded: the reply is found, proven by its status, and not sent again."""
    stage = Stage(world)
    (message,) = stage.conversation(1)
    match = {"operation": "send", "recipient": message.person.wa_id}
    hang = await world.sandbox.add_fault("whatsapp", action="hang_after", match=match, count=1)
    with stage.only(0):
        await stage.post(message, replica=0)
        await stage.sends(1, message)
        await asyncio.to_thread(world.fleet.replicas[0].kill)
    await world.sandbox.remove_fault(hang)
    await world.restart(0)
    await stage.ends_well()


async def frozen_past_its_lease(world: ChaosWorld) -> None:
    """A replica that wakes after another took its conversation over changes nothing: not the reply, not the mailbox."""
    stage = Stage(world)
    first, second = stage.conversation(2)
    frozen = world.fleet.replicas[0]
    hang = await world.sandbox.add_fault("gemini", action="hang_before")
    before = (await world.sandbox.summary())["last_seq"]
    with stage.only(0):
        await stage.post(first, replica=0)
        await world.sandbox.wait(1, kind="generate", after=before)
        frozen.pause()
    try:
        # Its answer now lies in its socket, and it will read it when it wakes.
        await world.sandbox.remove_fault(hang)
        await stage.sends(1, first)
        await world.until_quiet(QUIET_SECONDS)
        written = await _reply(world, first)
        await stage.post(second, replica=1)
    finally:
        frozen.resume()
    await stage.ends_well()
    if await _reply(world, first) != written:
        raise Broken("the frozen replica wrote to a reply that was no longer its own")


async def delivered_again_beside_news(world: ChaosWorld) -> None:
    """What was answered comes again, in a batch with the next message: it adds nothing."""
    stage = Stage(world)
    first, second, third = stage.conversation(3)
    await stage.post(first, replica=0)
    await stage.sends(1, first)
    await stage.post(second, first, replica=1)
    await stage.sends(2, first)
    await stage.post(first, second, third, first, replica=2)
    await stage.ends_well()


async def slower_than_the_lease(world: ChaosWorld) -> None:
    """A reply that takes longer than a lease is generated once: its holder keeps the conversation."""
    stage = Stage(world)
    (message,) = stage.conversation(1)
    match = {"text_contains": message.marker}
    slow = await world.sandbox.add_fault(
        "gemini", action="hang_before", hang_seconds=2.5 * world.lease_seconds, match=match, count=1
    )
    before = (await world.sandbox.summary())["last_seq"]
    await stage.post(message, replica=0)
    await stage.ends_well()
    await world.sandbox.remove_fault(slow)
    asked = await world.sandbox.record(kind="generate", after=before)
    times = sum(message.marker in str(entry["text"]) for entry in asked)
    if times != 1:
        raise Broken(f"the reply was generated {times} times")


async def anothers_model_is_down(world: ChaosWorld) -> None:
    """What one account has chosen for itself opens no circuit of the others: they are answered as ever."""
    stage = Stage(world)
    broken, healthy = await world.add_business(), world.businesses[0]
    async with chosen_model(world, broken, gemini="unavailable"):
        talks = [stage.conversation(1, broken)[0] for _ in range(5)]
        await stage.post(*talks, replica=0)
        await _until_a_circuit_opens(world)
        innocent = [stage.conversation(1, healthy)[0] for _ in range(5)]
        await stage.post(*innocent, replica=1)
        try:
            sends = await stage.sends(1, *innocent, timeout_seconds=min(8 * world.patience, 30))
        except TimeoutError:
            raise Broken("another account's model keeps innocent customers waiting") from None
        if any(send["text"] == FALLBACK_TEXT for send in sends):
            raise Broken("an innocent customer got the fallback text")
        await stage.sends(1, *talks)
    await stage.ends_well()


@asynccontextmanager
async def chosen_model(world: ChaosWorld, business: Business, **fault: Any) -> AsyncIterator[None]:
    """The account has chosen a model of its own, and that has this fault."""
    await world.change_profile(business, model=OWN_MODEL)
    rule = await world.sandbox.add_fault("gemini", match={"model": OWN_MODEL}, **fault)
    try:
        yield
    finally:
        await world.sandbox.remove_fault(rule)
        await world.change_profile(business, model=None)


async def _until_a_circuit_opens(world: ChaosWorld) -> None:
    """As any replica sees it: one that is alone in trouble, or has no Redis for a moment, opens its own."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for number in range(len(world.fleet.replicas)):
            health = await world.api("GET", "/health", replica=number)
            if health["model_circuits"] or health["circuit_breakers"]["gemini"]["state"] != "closed":
                return
        await asyncio.sleep(0.05)
    raise Broken("no circuit opens")


async def wiped_redis(world: ChaosWorld) -> None:
    """Redis loses everything while messages wait for the model: what Postgres has is answered within 10 s, once."""
    stage = Stage(world)
    hang = await world.sandbox.add_fault("gemini", action="hang_before")
    talks = [stage.conversation(1)[0] for _ in range(20)]
    before = (await world.sandbox.summary())["last_seq"]
    await stage.post(*talks, replica=0)
    await world.sandbox.wait(len(talks), kind="generate", after=before)  # stored by now
    await world.redis.flushall()
    wiped_at = time.time()
    await world.sandbox.remove_fault(hang)
    sends = await stage.sends(1, *talks)
    slowest = max(float(str(send["at"])) for send in sends) - wiped_at
    if slowest > RECOVERY_SECONDS * world.patience:
        raise Broken(f"the last message was answered {slowest:.2f} s after Redis was wiped")
    await stage.ends_well()


async def full_mailbox(world: ChaosWorld) -> None:
    """A customer floods a mailbox: what came in the same POSTs is answered, the rest of the flood calls a person."""
    stage = Stage(world)
    flooder, *innocent = [stage.conversation(1)[0] for _ in range(25)]
    poster = sender(world.fleet.webhook_urls, app_secret=world.fleet.keys.app_secret)
    hang = await world.sandbox.add_fault("gemini", action="hang_before", match={"text_contains": "flood"})
    for post, beside in enumerate(innocent):
        flood = [text(flooder.person, "flood", id=f"wamid.flood-{stage.run}-{post}-{n}") for n in range(50)]
        people = [flooder.person, beside.person]
        await poster.deliver(envelope(messages_change(flooder.business, [*flood, beside.node()], people)))
    refused = [post.status for post in poster.posts if post.status != 200]
    if refused:
        raise Broken(f"POSTs beside a full mailbox were answered {refused}")
    await stage.sends(1, *innocent)
    query = (
        "select c.id, c.needs_human_reason from conversations c join contacts k on k.id = c.contact_id "
        "where k.wa_id = $1 and c.needs_human_reason is not null"
    )
    async with asyncio.timeout(QUIET_SECONDS):
        while not (called := await world.rows(query, flooder.person.wa_id)):
            await asyncio.sleep(0.05)
    await world.api("POST", f"/conversations/{called[0]['id']}/bot", json={"enabled": False})
    await world.sandbox.remove_fault(hang)
    await world.until_quiet(QUIET_SECONDS)
    if called[0]["needs_human_reason"] != "overflow":
        raise Broken(f"a person was called for {called[0]}")
    await _stored(world, f"wamid.flood-{stage.run}-%", 50 * len(innocent))


async def _stored(world: ChaosWorld, ids: str, count: int) -> None:
    """What was diverted to the database is put in its place later, and no queue tells of it."""
    stored = 0
    try:
        async with asyncio.timeout(QUIET_SECONDS):
            while stored != count:
                ((stored,),) = await world.rows("select count(*) from messages where wa_message_id like $1", ids)
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise Broken(f"{stored} of {count} messages {ids} are stored") from None


async def _reply(world: ChaosWorld, message: Message) -> tuple[object, ...]:
    query = "select fence, state, body, covers, wamid from replies where reply_key = $1"
    (row,) = await world.rows(query, message.id)
    return tuple(row)


SCENARIOS: Mapping[str, Callable[[ChaosWorld], Awaitable[None]]] = {
    scenario.__name__: scenario
    for scenario in (
        killed_while_generating,
        killed_between_send_and_record,
        frozen_past_its_lease,
        delivered_again_beside_news,
        slower_than_the_lease,
        anothers_model_is_down,
        wiped_redis,
        full_mailbox,
    )
}
