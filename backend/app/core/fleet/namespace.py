"""To whom the keys of a Redis namespace belong: the first who asks, until an operator says otherwise.

    bound = await Binding(door, namespace="chorus").bind(identity)     # whose it is: `identity`, or the one before us

What it does not do: keep others out. Who is told another identity must leave the namespace alone.
"""

from __future__ import annotations

from app.core.redis.door import Door
from app.core.redis.script import Script

BIND = Script("namespace_bind")


class Binding:
    """Of one namespace on one Redis. Identities are opaque. Raises `Unavailable`."""

    def __init__(self, door: Door, *, namespace: str) -> None:
        self._door = door
        self._key = f"{namespace}:{{fleet}}:database"

    async def read(self) -> str | None:
        """`None`: it belongs to none yet."""
        return await self._run("read", "") or None

    async def bind(self, identity: str) -> str:
        """Make it ours unless it is another's; whose it is."""
        return await self._run("bind", identity) or identity

    async def rebind(self, identity: str) -> str | None:
        """Make it ours, whosever it was; whose that was."""
        return await self._run("rebind", identity) or None

    async def _run(self, verb: str, identity: str) -> str:
        return str(await self._door.run(BIND, [self._key], [verb, identity]), "utf-8")
