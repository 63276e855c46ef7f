"""What bodies may take: each of them, and all together while they are on their way.

How long a body may be on its way is the server's affair (`api/http_protocol.py`).
"""

from __future__ import annotations

from starlette.types import Receive

MAX_DIGITS = 18
"""More than any limit of ours; Python refuses to read numbers of thousands of digits."""
UNCOUNTED_BYTES = 16 * 1024
"""The start of every body is free: ordinary requests are not refused because others send large ones. It is bounded by
the number of connections."""


class BodyTooLarge(Exception):
    """This body is larger than its kind may be."""


class BodiesTooLarge(Exception):
    """All bodies that are on their way are too large together: this one may come again later."""


class BodyBudget:
    """Bytes of bodies in memory that are not complete or not checked, over all connections of the process."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> None:
        """Raises `BodiesTooLarge`, and takes nothing."""
        if self.used + size > self.limit:
            raise BodiesTooLarge
        self.used += size

    def give_back(self, size: int) -> None:
        self.used -= size


class Body:
    """One request's body. `close` must follow, or the budget shrinks."""

    def __init__(self, receive: Receive, *, max_bytes: int, budget: BodyBudget) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._budget = budget
        self._taken = 0
        self.is_complete = False

    async def read(self) -> bytes | bytearray | None:
        """The whole of it; `None` if the client went away. Raises `BodyTooLarge` or `BodiesTooLarge` as soon as that
        is known."""
        body: bytes | bytearray = b""
        while not self.is_complete:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return None
            chunk: bytes = message.get("body", b"")
            if len(body) + len(chunk) > self._max_bytes:
                raise BodyTooLarge
            self.is_complete = not message.get("more_body")
            if self.is_complete and not body:
                return chunk  # it came in one piece and waits for nothing
            self._count(len(body) + len(chunk))
            if not isinstance(body, bytearray):
                body = bytearray()  # not a list: a body in pieces of one byte would take 40 times its size
            body += chunk
        return body

    def _count(self, size: int) -> None:
        more = size - UNCOUNTED_BYTES - self._taken
        if more > 0:
            self._budget.take(more)
            self._taken += more

    def close(self) -> None:
        """Give back what the budget lent. Idempotent."""
        self._budget.give_back(self._taken)
        self._taken = 0


def announced_bytes(content_length: bytes, *, limit: int) -> int:
    """The value of `Content-Length`. One that is no number, or has too many digits, is more than `limit`."""
    if not content_length.isdigit() or len(content_length) > MAX_DIGITS:
        return limit + 1
    return int(content_length)
