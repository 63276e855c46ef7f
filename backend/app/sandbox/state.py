"""Everything one sandbox knows: shared by the stand-ins and the control API, bounded, in memory only."""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass

from app.core.clock import SYSTEM_CLOCK, Clock
from app.sandbox.config import SandboxAccount, SandboxConfig
from app.sandbox.faults import Faults
from app.sandbox.hearing import Ear
from app.sandbox.limits import Limits
from app.sandbox.record import Record
from app.sandbox.webhooks import Business

MEDIA_URL_SECONDS = 300.0
"""A media url lives five minutes (Cloud API, media reference)."""
MAX_MEDIA_URLS = 10_000
MAX_ACCOUNTS = 10_000


@dataclass(frozen=True, slots=True)
class Media:
    id: str
    content: bytes
    mime_type: str
    sha256: str


class MediaShelf:
    """Uploaded files, the oldest go first when `max_bytes` is exceeded, and the short-lived urls they are read by."""

    def __init__(self, max_bytes: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._bytes = 0
        self._media: OrderedDict[str, Media] = OrderedDict()
        self._urls: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def add(self, content: bytes, mime_type: str) -> Media:
        media = Media(str(10**15 + secrets.randbelow(10**15)), content, mime_type, hashlib.sha256(content).hexdigest())
        self._media[media.id] = media
        self._bytes += len(content)
        while self._bytes > self._max_bytes and len(self._media) > 1:
            self._bytes -= len(self._media.popitem(last=False)[1].content)
        return media

    def get(self, media_id: str) -> Media | None:
        return self._media.get(media_id)

    def url_token(self, media_id: str) -> str:
        """A fresh part of an url, good for `MEDIA_URL_SECONDS`."""
        token = secrets.token_urlsafe(24)
        self._urls[token] = (media_id, self._clock.monotonic() + MEDIA_URL_SECONDS)
        if len(self._urls) > MAX_MEDIA_URLS:
            self._urls.popitem(last=False)
        return token

    def by_token(self, token: str) -> Media | None:
        media_id, expires = self._urls.get(token, ("", 0.0))
        return self._media.get(media_id) if self._clock.monotonic() < expires else None

    def clear(self) -> None:
        self._media.clear()
        self._urls.clear()
        self._bytes = 0


class SandboxState:
    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self.behaviour = config.behaviour
        self.accounts = {account.phone_number_id: account for account in config.accounts}
        self.faults = Faults()
        self.limits = Limits()
        self.record = Record(config.record_max_entries, config.record_max_bytes)
        self.media = MediaShelf(config.media_max_bytes)
        self.ear = Ear()

    def token_opens(self, token: str, account: SandboxAccount | None) -> bool:
        """An unregistered number takes any token, if the configuration lets it."""
        if account is not None:
            return account.token_valid and secrets.compare_digest(token.encode(), account.access_token.encode())
        return bool(token) and self.config.accept_unknown_accounts

    def token_is_known(self, token: str) -> bool:
        """For requests that name no number (media)."""
        if self.config.accept_unknown_accounts:
            return bool(token)
        return any(self.token_opens(token, account) for account in self.accounts.values())

    def business(self, phone_number_id: str) -> Business:
        """How webhooks name this number."""
        account = self.accounts.get(phone_number_id)
        if account is None:
            return Business(phone_number_id)
        return Business(phone_number_id, account.display_phone_number, account.waba_id)

    def reset(self) -> None:
        """Back to the configuration; whatever hangs goes on."""
        self.behaviour = self.config.behaviour
        self.accounts = {account.phone_number_id: account for account in self.config.accounts}
        self.faults.clear()
        self.limits.clear()
        self.record.clear()
        self.media.clear()
        self.ear.clear()
