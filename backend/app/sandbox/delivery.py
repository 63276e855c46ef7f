"""Posting signed webhooks to the replicas the way Meta does: any replica, and again until one says 200."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.core.http_client import GetClient, get_http_client, is_network_error
from app.sandbox.webhooks import encode_like_meta, signed_headers

REDELIVERY_SECONDS = (0.0, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""Meta starts at once and goes on for 7 days; scaled down to what a test or a demo can wait for."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One POST. `status` is `None` when no response came."""

    url: str
    status: int | None

    @property
    def succeeded(self) -> bool:
        return self.status == 200


class Undelivered(Exception):
    """No replica said 200 within the whole schedule."""

    def __init__(self, attempts: Sequence[Attempt]) -> None:
        super().__init__(f"no 200 in {len(attempts)} attempts, the last answer was {attempts[-1].status}")
        self.attempts = tuple(attempts)


class WebhookSender:
    """Signs and posts. Takes the replicas in turn, or at random when a `seed` is given."""

    def __init__(
        self,
        callback_urls: Sequence[str],
        *,
        app_secret: str,
        timeout_seconds: float = 10.0,
        redelivery_seconds: Sequence[float] = REDELIVERY_SECONDS,
        seed: int | None = None,
        get_client: GetClient = get_http_client,
    ) -> None:
        self.callback_urls = tuple(callback_urls)
        self.app_secret = app_secret
        self.timeout_seconds = timeout_seconds
        self._redelivery_seconds = tuple(redelivery_seconds)
        self._random = None if seed is None else random.Random(seed)
        self._get_client = get_client
        self._turn = 0

    async def deliver(self, payload: Any) -> list[Attempt]:
        """Post until a replica says 200. Raises `Undelivered`."""
        raw = encode_like_meta(payload)
        attempts = [await self.post(raw)]
        for pause in self._redelivery_seconds:
            if attempts[-1].succeeded:
                break
            await asyncio.sleep(pause)
            attempts.append(await self.post(raw))
        if not attempts[-1].succeeded:
            raise Undelivered(attempts)
        return attempts

    async def post(self, raw: bytes) -> Attempt:
        """One POST of exactly these bytes, whatever comes of it."""
        url = self._next_url()
        client = await self._get_client()
        try:
            async with asyncio.timeout(self.timeout_seconds):
                response = await client.post(url, content=raw, headers=signed_headers(self.app_secret, raw))
        except Exception as exc:
            if not is_network_error(exc):
                raise
            return Attempt(url, None)
        return Attempt(url, response.status_code)

    def _next_url(self) -> str:
        if not self.callback_urls:
            raise RuntimeError("no callback url is configured")
        if self._random is not None:
            return self._random.choice(self.callback_urls)
        self._turn += 1
        return self.callback_urls[self._turn % len(self.callback_urls)]
