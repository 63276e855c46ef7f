"""Lua scripts, run by their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

from redis.exceptions import NoScriptError


class Script:
    """One Lua script from `core/lua/`. `prelude`: another one to put in front of it."""

    def __init__(self, name: str, *, prelude: str | None = None) -> None:
        self.name = name
        self.source = "\n".join(
            resources.files("app.core").joinpath("lua", f"{part}.lua").read_text(encoding="utf-8")
            for part in (prelude, name)
            if part is not None
        )
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, client: Any, keys: Sequence[str | bytes], args: Sequence[Any]) -> Any:
        """Run it on a redis-py client, without a time limit. A server that does not know the digest (restart, flush)
        has run nothing, so sending the source then repeats nothing."""
        try:
            return await client.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await client.execute_command("EVAL", self.source, len(keys), *keys, *args)
