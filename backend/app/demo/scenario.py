"""The demo's conversations, and what each of them must lead to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from app.demo.bakery import BAKERY
from app.localhost.fleet import LocalFleet
from app.sandbox import webhooks
from app.sandbox.client import SandboxClient
from app.sandbox.customers import Customer, Reply
from app.sandbox.delivery import WebhookSender
from app.sandbox.hearing import FILES
from app.sandbox.webhooks import Business, JsonObject, Person

REPLY_SECONDS = 30.0
QUIET_SECONDS = 2.0
"""Longer than the debounce: a reply too many would have come by then."""


@dataclass(frozen=True, slots=True)
class Said:
    id: str
    text: str
    how: str
    accepted_by: str


@dataclass(slots=True)
class Scene:
    """One customer's turn: what was said, what came back, and what is wrong with it."""

    customer: str
    said: list[Said] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Stage:
    """What every scene needs."""

    fleet: LocalFleet
    sandbox: SandboxClient
    business: Business
    check_texts: bool

    def sender(self, *replicas: int) -> WebhookSender:
        return WebhookSender([self.fleet.webhook_urls[n] for n in replicas], app_secret=self.fleet.keys.app_secret)

    def customer(self, name: str, number: int, *replicas: int) -> Customer:
        # A number of its own in each run: yesterday's conversation must not colour today's.
        phone = f"336{int(time.time()) % 1_000_000:06d}{number:02d}"
        return Customer(self.sender(*replicas), phone, name, business=self.business, sandbox=self.sandbox)

    def names(self, *replicas: int) -> str:
        return " and ".join(self.fleet.replicas[n].name for n in replicas)


async def play(fleet: LocalFleet, sandbox: SandboxClient, business: Business, *, check_texts: bool) -> list[Scene]:
    """All scenes side by side; then a quiet moment in which no reply too many may come."""
    stage = Stage(fleet, sandbox, business, check_texts)
    acts: Sequence[Callable[[Stage], Awaitable[list[tuple[Customer, Scene]]]]] = (
        _quick_messages, _delivered_twice, _files, _button, _batch, _reaction,
    )  # fmt: skip
    results = await asyncio.gather(*(act(stage) for act in acts))
    cast = [pair for result in results for pair in result]
    await asyncio.sleep(QUIET_SECONDS)
    expected: dict[str, int] = {}
    for customer, scene in cast:
        phone = str(customer.person.wa_id)
        expected[phone] = expected.get(phone, 0) + len(scene.replies)
    for customer, scene in cast:
        phone = str(customer.person.wa_id)
        sends = await sandbox.record(kind="send", to=phone)
        if len(sends) != expected[phone]:
            scene.problems.append(f"{len(sends)} replies arrived, {expected[phone]} were expected")
    return [scene for _, scene in cast]


async def _quick_messages(stage: Stage) -> list[tuple[Customer, Scene]]:
    """Three quick messages get one answer; the next question gets its own."""
    amina = stage.customer("Amina", 1, 0, 1, 2)
    texts = ("Hello!", "I have a question", "Do you have gluten-free bread?")
    ids = await amina.burst(*texts)
    first = Scene("Amina", [Said(i, t, "quick", stage.names(0, 1, 2)) for i, t in zip(ids, texts, strict=True)])
    await _expect(stage, amina, first, "sell nothing as gluten-free")
    question = "And do you have vegan pastries?"
    message_id = await amina.say(question)
    second = Scene("Amina", [Said(message_id, question, "later", stage.names(0, 1, 2))])
    await _expect(stage, amina, second, "apple turnover")
    return [(amina, first), (amina, second)]


async def _delivered_twice(stage: Stage) -> list[tuple[Customer, Scene]]:
    """Meta delivers one message to two replicas at once: one reply."""
    ben = stage.customer("Ben", 2, 1, 2)
    question = "What are your opening hours on Sunday?"
    message_id = await ben.say_twice(question)
    scene = Scene("Ben", [Said(message_id, question, "delivered twice", stage.names(1, 2))])
    await _expect(stage, ben, scene, "Sunday 7:00-13:00")
    return [(ben, scene)]


async def _files(stage: Stage) -> list[tuple[Customer, Scene]]:
    """A voice note and a photo, answered on what they say; and a picture that WhatsApp does not have any more."""
    chloe, hana = stage.customer("Chloé", 3, 2), stage.customer("Hana", 8, 0)
    message_id = await chloe.send_voice((FILES / "vegan.ogg").read_bytes())
    spoken = Scene("Chloé", [Said(message_id, "(a voice note)", "voice", stage.names(2))])
    await _expect(stage, chloe, spoken, "apple turnover")
    message_id = await chloe.send_photo((FILES / "strawberry-cake.jpg").read_bytes(), "And this one?")
    shown = Scene("Chloé", [Said(message_id, "(a photo) And this one?", "photo", stage.names(2))])
    await _expect(stage, chloe, shown, "38 EUR")
    message_id = await hana.send_image()
    gone = Scene("Hana", [Said(message_id, "(an image)", "image", stage.names(0))])
    await _expect(stage, hana, gone, BAKERY["non_text_reply"], always=True)
    return [(chloe, spoken), (chloe, shown), (hana, gone)]


async def _button(stage: Stage) -> list[tuple[Customer, Scene]]:
    david = stage.customer("David", 4, 0)
    message_id = await david.press_button("delivery", "Delivery in Lyon 4")
    scene = Scene("David", [Said(message_id, "Delivery in Lyon 4", "button", stage.names(0))])
    await _expect(stage, david, scene, "for 5 EUR")
    return [(david, scene)]


async def _batch(stage: Stage) -> list[tuple[Customer, Scene]]:
    """Two people's messages in one POST: two conversations, two replies."""
    elif_, farid = stage.customer("Elif", 5, 1), stage.customer("Farid", 6, 1)
    asked = ((elif_, "How much is the strawberry cake?", "38 EUR"), (farid, "Where are you?", "Tables Claudiennes"))
    messages: list[tuple[Person, JsonObject]] = [
        (who.person, webhooks.text(who.person, text)) for who, text, _ in asked
    ]
    change = webhooks.messages_change(
        stage.business, [message for _, message in messages], [person for person, _ in messages]
    )
    await stage.sender(1).deliver(webhooks.envelope(change))
    scenes = []
    for (who, text, answer), (person, message) in zip(asked, messages, strict=True):
        scene = Scene(str(person.name), [Said(message["id"], text, "in one batch", stage.names(1))])
        await _expect(stage, who, scene, answer)
        scenes.append((who, scene))
    return scenes


async def _reaction(stage: Stage) -> list[tuple[Customer, Scene]]:
    """A thumbs-up is no question."""
    gina = stage.customer("Gina", 7, 2)
    message_id = await gina.react("wamid.something", "👍")
    return [(gina, Scene("Gina", [Said(message_id, "👍", "reaction", stage.names(2))]))]


async def _expect(stage: Stage, customer: Customer, scene: Scene, text: str, *, always: bool = False) -> None:
    """One reply that says `text`. The words of the real Gemini cannot be known; that it is one reply is checked."""
    try:
        scene.replies += await customer.wait_for_reply(timeout_seconds=REPLY_SECONDS)
    except TimeoutError as exc:
        scene.problems.append(str(exc))
        return
    if len(scene.replies) != 1:
        scene.problems.append(f"{len(scene.replies)} replies instead of one")
    if (stage.check_texts or always) and text not in scene.replies[0].text:
        scene.problems.append(f"the reply should say: {text}")
