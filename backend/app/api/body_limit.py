"""What bodies may take: each of them, and all together while they are on their way.

When all together are too large, the body that has been on its way the longest gives way: bodies that never end cannot
keep out one that arrives quickly. Small and large bodies have shares of their own, so that large ones, which take a
share with few connections, push out no small one.

How long a body may be on its way is the server's affair (`api/http_protocol.py`).
"""

from __future__ import annotations

import asyncio

from starlette.types import Receive

MAX_DIGITS = 18
"""More than any limit of ours; Python refuses to read numbers of thousands of digits."""
UNCOUNTED_BYTES = 16 * 1024
"""The start of every body is free: ordinary requests are not refused because others send large ones. It is bounded by
the number of connections."""
SMALL_BYTES = 64 * 1024
"""A body of so much, as far as it has arrived, is small."""
SMALL_SHARE = 1 / 4
"""Of the budget, for small bodies only."""


class BodyTooLarge(Exception):
    """This body is larger than its kind may be."""


class BodiesTooLarge(Exception):
    """All bodies that are on their way are too large together: this one may come again later."""


class BodyBudget:
    """Bytes of bodies in memory that are not complete or not checked, over all connections of the process."""

    def __init__(self, limit: int) -> None:
        small = int(limit * SMALL_SHARE)
        self._small, self._large = _Share(small), _Share(limit - small)

    def share_of(self, size: int) -> _Share:
        return self._small if size <= SMALL_BYTES else self._large


class _Share:
    """A part of the budget, and the incomplete bodies that have taken from it, the oldest first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._incomplete: dict[Body, None] = {}

    def take(self, size: int, body: Body) -> None:
        """Older bodies give way until there is room. Raises `BodiesTooLarge` if `body` itself is the oldest."""
        self._incomplete.setdefault(body)
        while self._used + size > self._limit:
            oldest = next(iter(self._incomplete))
            if oldest is body:
                raise BodiesTooLarge
            oldest.give_way()
        self._used += size

    def completed(self, body: Body) -> None:
        """What it has taken stays taken, and it gives way to no other."""
        self._incomplete.pop(body, None)

    def give_back(self, size: int, body: Body) -> None:
        self._used -= size
        self._incomplete.pop(body, None)


class Body:
    """One request's body. `close` must follow, or the budget shrinks."""

    def __init__(self, receive: Receive, *, max_bytes: int, budget: BodyBudget) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._budget = budget
        self._share: _Share | None = None
        self._taken = 0
        self._pieces: list[bytes] = []
        self._size = 0
        self._reading: asyncio.Timeout | None = None
        self._gave_way = False
        self.is_complete = False

    async def read(self) -> bytes | None:
        """The whole of it; `None` if the client went away. Raises `BodyTooLarge`, or `BodiesTooLarge` when it had to
        give way, as soon as that is known."""
        chunk = await self._chunk()
        if chunk is None or self.is_complete:
            return chunk  # it came in one piece and waits for nothing
        try:
            async with asyncio.timeout(None) as self._reading:
                return await self._rest(chunk)
        except TimeoutError:
            raise BodiesTooLarge from None
        finally:
            self._reading = None

    async def _rest(self, chunk: bytes | None) -> bytes | None:
        while chunk is not None:
            # Not one growing buffer: copies leave holes, which the process does not give back. How many pieces there
            # may be is bounded by the server.
            self._pieces.append(chunk)
            if self.is_complete:
                if self._share is not None:
                    self._share.completed(self)
                whole, self._pieces = b"".join(self._pieces), []
                return whole
            self._count()
            chunk = await self._chunk()
        return None

    async def _chunk(self) -> bytes | None:
        """The next piece; `None` if the client went away."""
        message = await self._receive()
        if self._gave_way:  # while this piece was already here
            raise BodiesTooLarge
        if message["type"] == "http.disconnect":
            return None
        chunk: bytes = message.get("body", b"")
        self._size += len(chunk)
        if self._size > self._max_bytes:
            raise BodyTooLarge
        self.is_complete = not message.get("more_body")
        return chunk

    def _count(self) -> None:
        """What is here and waits for more. The last piece waits for nothing and is not counted."""
        counted = self._size - UNCOUNTED_BYTES
        if counted <= 0:
            return
        share = self._budget.share_of(self._size)
        if share is not self._share:
            self._give_back()
            self._share = share
        share.take(counted - self._taken, self)
        self._taken = counted

    def give_way(self) -> None:
        """End `read`, if it still waits, with `BodiesTooLarge`. What has arrived is let go of at once."""
        self._gave_way = True
        self._pieces.clear()
        self._give_back()
        if self._reading is not None:
            self._reading.reschedule(asyncio.get_running_loop().time())

    def close(self) -> None:
        """Give back what the budget lent. Idempotent."""
        self._give_back()

    def _give_back(self) -> None:
        if self._share is not None:
            self._share.give_back(self._taken, self)
        self._share, self._taken = None, 0


def announced_bytes(content_length: bytes, *, limit: int) -> int:
    """The value of `Content-Length`. One that is no number, or has too many digits, is more than `limit`."""
    if not content_length.isdigit() or len(content_length) > MAX_DIGITS:
        return limit + 1
    return int(content_length)
