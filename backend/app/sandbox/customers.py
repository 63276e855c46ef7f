"""Simulated customers: they write through signed webhooks to any replica and read the replies in the record."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from app.sandbox import webhooks
from app.sandbox.client import SandboxClient
from app.sandbox.delivery import WebhookSender
from app.sandbox.webhooks import Business, JsonObject, Person


@dataclass(frozen=True, slots=True)
class Reply:
    """`after_seconds`: since the customer's last message was on its way."""

    text: str
    wamid: str
    seq: int
    after_seconds: float


class Customer:
    """One person writing to one business. `phone` is digits; every method returns once a replica said 200."""

    def __init__(
        self,
        sender: WebhookSender,
        phone: str,
        name: str,
        *,
        business: Business,
        sandbox: SandboxClient,
        user_id: str | None = None,
    ) -> None:
        self.person = Person(phone, name, user_id)
        self._sender = sender
        self._business = business
        self._sandbox = sandbox
        self._wrote_at = time.monotonic()
        self._seen_seq = 0

    async def say(self, text: str, **more: object) -> str:
        """Returns the message id."""
        return (await self.write(webhooks.text(self.person, text, **more)))[0]

    async def burst(self, *texts: str) -> list[str]:
        """Quick successive messages, each in its own webhook, all on their way at once; ids in order."""
        now = time.time()
        messages = [webhooks.text(self.person, text, at=now + n) for n, text in enumerate(texts)]
        self._wrote_at = time.monotonic()
        await asyncio.gather(*(self._sender.deliver(self.webhook(message)) for message in messages))
        return [message["id"] for message in messages]

    async def batch(self, *texts: str) -> list[str]:
        """Several messages in one webhook."""
        return await self.write(*(webhooks.text(self.person, text) for text in texts))

    async def say_twice(self, text: str) -> str:
        """One message that Meta delivers two times, at once."""
        message = webhooks.text(self.person, text)
        self._wrote_at = time.monotonic()
        payload = self.webhook(message)
        await asyncio.gather(self._sender.deliver(payload), self._sender.deliver(payload))
        return str(message["id"])

    async def send_image(self, caption: str | None = None, *, media_id: str = "1003383421387256") -> str:
        return (await self.write(webhooks.media(self.person, "image", media_id=media_id, caption=caption)))[0]

    async def send_voice(self, content: bytes, *, says: str | None = None) -> str:
        """A voice note (OGG with Opus). `says`: what the stand-in for Gemini hears, if the file is none that ships."""
        return await self.send_file("audio", content, "audio/ogg; codecs=opus", says=says, voice=True)

    async def send_photo(self, content: bytes, caption: str | None = None, *, says: str | None = None) -> str:
        """A JPEG."""
        return await self.send_file("image", content, "image/jpeg", says=says, caption=caption)

    async def send_file(
        self, kind: str, content: bytes, mime_type: str, *, says: str | None = None, **more: object
    ) -> str:
        """Any file, as a message of `kind`."""
        media_id = await self._sandbox.upload(content, mime_type, says=says)
        return (await self.write(webhooks.file(self.person, kind, media_id, content, mime_type=mime_type, **more)))[0]

    async def press_button(self, reply_id: str, title: str) -> str:
        return (await self.write(webhooks.button_reply(self.person, reply_id, title)))[0]

    async def react(self, to_message_id: str, emoji: str | None) -> str:
        return (await self.write(webhooks.reaction(self.person, to_message_id, emoji)))[0]

    async def write(self, *messages: JsonObject) -> list[str]:
        """Any messages of `webhooks`, in one POST."""
        self._wrote_at = time.monotonic()
        await self._sender.deliver(self.webhook(*messages))
        return [message["id"] for message in messages]

    def webhook(self, *messages: JsonObject) -> JsonObject:
        return webhooks.envelope(webhooks.messages_change(self._business, messages, [self.person]))

    async def wait_for_reply(self, count: int = 1, *, timeout_seconds: float = 10.0) -> list[Reply]:
        """At least `count` texts that reached this customer and were not returned before. Raises `TimeoutError`."""
        entries = await self._sandbox.wait(
            count,
            timeout_seconds=timeout_seconds,
            kind="send",
            processed="true",
            phone_number_id=self._business.phone_number_id,
            to=self.person.wa_id or self.person.user_id,
            after=self._seen_seq,
        )
        self._seen_seq = entries[-1]["seq"]
        return [Reply(e["text"], e["wamid"], e["seq"], e["monotonic"] - self._wrote_at) for e in entries]
