"""What cannot be answered soon, or at all: the customer is told, a person is called, and its end is noticed."""

from __future__ import annotations

import asyncio
import time

from .poison import poison
from .scenarios import QUIET_SECONDS, SETTINGS, Broken, Stage
from .world import FALLBACK_TEXT, LOOK_SECONDS, ChaosWorld

PATIENT_SETTINGS = SETTINGS | {"REPLY_DEADLINE_SECONDS": "120"}
"""For circuits that open for longer than the scenarios' customers wait."""
TOLD_SECONDS = 3.0
"""To tell a customer that no answer will come today."""
LETTERS_SECONDS = 6.0
"""One replica looks through new dead letters every two seconds, on a lease."""
MODEL_BACK_SECONDS = 8.0
"""One look at Gemini every five seconds while its circuit is open, and an answer."""


async def quota_for_a_day(world: ChaosWorld) -> None:
    """The model's quota of the day is used up: each customer is told at once. When it is there again, the next one gets
    an answer."""
    stage = Stage(world)
    fault = await world.sandbox.add_fault("gemini", gemini="quota_per_day")
    for replica in range(3):  # the first opens the circuit, the others find it open
        talks = [stage.conversation(1)[0] for _ in range(3)]
        posted = time.time()
        await stage.post(*talks, replica=replica)
        sends = await stage.sends(1, *talks)
        slowest = max(float(str(send["at"])) for send in sends) - posted
        debounce = float(world.settings["DEBOUNCE_SECONDS"])
        if slowest > debounce + TOLD_SECONDS * world.patience or any(send["text"] != FALLBACK_TEXT for send in sends):
            raise Broken(f"after {slowest:.1f} s customers read {[send['text'] for send in sends]}")
    await world.sandbox.remove_fault(fault)
    removed = time.monotonic()
    while True:
        (late,) = stage.conversation(1)
        await stage.post(late, replica=0)
        (send,) = await stage.sends(1, late)
        if send["text"] != FALLBACK_TEXT:
            break
        if time.monotonic() - removed > MODEL_BACK_SECONDS * world.patience:
            raise Broken(f"the model is back, and not noticed within {MODEL_BACK_SECONDS:g} s")
    await stage.ends_well()


async def gemini_back(world: ChaosWorld) -> None:
    """The model is away until its circuit opens: when it is back, a look finds it, and who waited gets an answer."""
    stage = Stage(world)
    fault = await world.sandbox.add_fault("gemini", gemini="unavailable")
    talks = [stage.conversation(1)[0] for _ in range(6)]
    await stage.post(*talks, replica=0)
    deadline = time.monotonic() + QUIET_SECONDS
    while (await world.api("GET", "/admin/breakers"))["gemini"]["state"] != "open":
        if time.monotonic() > deadline:
            raise Broken("no circuit opens")
        await asyncio.sleep(LOOK_SECONDS)
    await world.sandbox.remove_fault(fault)
    back = time.time()
    sends = await stage.sends(1, *talks)
    slowest = max(float(str(send["at"])) for send in sends) - back
    if slowest > MODEL_BACK_SECONDS or any(send["text"] == FALLBACK_TEXT for send in sends):
        raise Broken(f"{slowest:.1f} s after the model was back the last customer read {sends[-1]['text']}")
    await stage.ends_well()


async def given_up_message_calls_a_person(world: ChaosWorld) -> None:
    """A message that fails five times for its own reasons is a dead letter: a person is called for its customer, and
    the message behind it is answered."""
    stage = Stage(world)
    bad = poison(world.businesses[0], first_conversation=10_000, run=stage.run, slow=True)
    stage.messages += bad.healthy
    for post in bad.posts:
        await stage.deliver(post, replica=0)
    (good,) = bad.healthy
    await stage.sends(1, good, timeout_seconds=QUIET_SECONDS)
    query = (
        "select c.needs_human_reason as why from conversations c join contacts k on k.id = c.contact_id "
        "where k.wa_id = $1 and c.needs_human"
    )
    deadline = time.monotonic() + LETTERS_SECONDS
    while not (called := await world.rows(query, good.person.wa_id)):
        if time.monotonic() > deadline:
            raise Broken("no person is called for the customer whose message was given up on")
        await asyncio.sleep(LOOK_SECONDS)
    letters = (await world.api("GET", "/admin/dead-letters"))["items"]
    await world.api("POST", "/admin/dead-letters/drop", json={"ids": [letter["id"] for letter in letters]})
    if called[0]["why"] != "dead_letter" or len(letters) != bad.letters:
        raise Broken(f"{len(letters)} dead letters, and a person was called for {called[0]['why']}")
    await stage.ends_well()
