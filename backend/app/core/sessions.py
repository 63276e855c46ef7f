"""Sessions of signed-in people, in Redis: every replica knows them, and each can end them.

    sessions = Sessions(door, namespace="chorus", idle_seconds=43_200, longest_seconds=604_800)
    token = await sessions.open("user-1", b"what we know of them")     # for the cookie; Redis has only a digest of it
    found = await sessions.find(token)                                 # `Found`, or None: sign in again
    await sessions.replace(token, b"what we know now", renew_seconds=3600)
    await sessions.close(token); await sessions.close_all(token)       # here; on every device of the same owner

1. A token is `<digest of the owner>.<256 random bits>`. It cannot be guessed; a reader of Redis finds no usable one.
2. It ends `idle_seconds` after its last use (known to a minute), and `longest_seconds` after it was opened.
3. One whose `renew_seconds` have passed is still valid; `Found.renew` tells one caller of the whole fleet to renew it.
4. All sessions of one owner are one hash: ending them is one command. At most `MOST_SESSIONS`; the one that was used
   the longest ago gives way.

What it does not do: answer from memory while Redis is away. Every call then raises `Unavailable`.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import Any

from app.core.redis.door import Door
from app.core.redis.script import Script

SESSION = Script("session")
MOST_SESSIONS = 50
"""Of one owner: devices and browsers."""
RENEWING_SECONDS = 10.0
"""For one renewal; another caller tries after that."""
_TOKEN = re.compile(r"([0-9a-f]{32})\.([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class Found:
    data: bytes
    ends_in_seconds: float
    late_seconds: float | None
    """Since it was to be renewed; `None`: not yet."""
    renew: bool
    """Renew it, then `replace`. `False` for all but one caller in `RENEWING_SECONDS`."""


class Sessions:
    """Raises `Unavailable` when Redis does not answer."""

    def __init__(self, door: Door, *, namespace: str, idle_seconds: float, longest_seconds: float) -> None:
        self._door = door
        self._prefix = f"{namespace}:session"
        self._idle_ms = round(idle_seconds * 1000)
        self.longest_seconds = longest_seconds

    async def open(
        self, owner: str, data: bytes, *, renew_seconds: float = 0, ends_in_seconds: float | None = None
    ) -> str:
        """The token. `renew_seconds`: 0 for one that is never renewed; `ends_in_seconds`: earlier than usual."""
        token = f"{hashlib.sha256(owner.encode()).hexdigest()[:32]}.{secrets.token_urlsafe(32)}"
        seconds = min(self.longest_seconds, ends_in_seconds or self.longest_seconds)
        await self._run("open", token, self._idle_ms, round(seconds * 1000), MOST_SESSIONS, _ms(renew_seconds), data)
        return token

    async def find(self, token: str, *, is_use: bool = True) -> Found | None:
        """`None`: there is no such session. Without `is_use` the idle time goes on."""
        if not _TOKEN.fullmatch(token):
            return None
        found = await self._run("find", token, self._idle_ms, _ms(RENEWING_SECONDS), int(is_use))
        if not found:
            return None
        data, left_ms, late_ms, renew = found
        return Found(data, left_ms / 1000, None if late_ms < 0 else late_ms / 1000, bool(renew))

    async def replace(self, token: str, data: bytes, *, renew_seconds: float) -> None:
        """Other data, the same end. One that was closed meanwhile stays closed."""
        await self._run("replace", token, _ms(renew_seconds), data)

    async def close(self, token: str) -> None:
        if _TOKEN.fullmatch(token):
            await self._run("close", token)

    async def close_all(self, token: str) -> None:
        """Every session of the owner of `token`, if it is one of theirs."""
        if _TOKEN.fullmatch(token):
            await self._run("close_all", token)

    def _key(self, token: str) -> str:
        return f"{self._prefix}:{{{token.partition('.')[0]}}}"

    async def _run(self, verb: str, token: str, *args: object) -> Any:
        secret = token.partition(".")[2]
        digest = hashlib.sha256(secret.encode()).hexdigest()
        key = self._key(token)
        return await self._door.run(SESSION, [key, f"{key}:renewing:"], [verb, digest, *args])


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
