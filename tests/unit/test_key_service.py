"""Which keys were used is written down once a minute, whatever the database does meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from app.domain.api_keys import PREFIX, ApiKey
from app.domain.errors import Unauthenticated, Unavailable
from app.domain.models import Grant, Role
from app.domain.opaque_tokens import digest_of, is_token, new_token
from app.services.key_service import KeyService


class Keys:
    """The store, with one key."""

    def __init__(self) -> None:
        self.new = new_token(PREFIX)
        self.away = False
        self.noted: list[Sequence[str]] = []

    async def get_api_key_by_digest(self, digest: str) -> ApiKey | None:
        if digest != self.new.digest:
            return None
        return ApiKey("k1", "a1", "n", Role.AGENT, digest, self.new.hint, "ada", datetime.now(UTC), None)

    async def api_keys_used(self, ids: Sequence[str]) -> None:
        if self.away:
            raise Unavailable("database", "away")
        self.noted.append(ids)


async def test_uses_are_noted_together_and_kept_while_the_database_is_away() -> None:
    store = Keys()
    service = KeyService(cast(Any, None), cast(Any, store))
    for _ in range(3):
        user = await service.verify(store.new.secret)
    assert (user.id, user.grant, user.is_operator) == ("key:k1", Grant("a1", Role.AGENT), False)
    store.away = True
    with pytest.raises(Unavailable):
        await service.note_uses()
    store.away = False
    await service.note_uses()
    await service.note_uses()
    assert store.noted == [["k1"]]


async def test_what_is_no_key_is_not_looked_up() -> None:
    service = KeyService(cast(Any, None), cast(Any, None))
    for token in ("", "chorus_", "x" * 50, "chorus_" + "A" * 42, "chorus_" + "é" * 43):
        assert not is_token(token, PREFIX)
        with pytest.raises(Unauthenticated):
            await service.verify(token)


def test_keys_are_long_random_and_different() -> None:
    made = [new_token(PREFIX) for _ in range(100)]
    assert len({key.secret for key in made}) == 100
    assert all(is_token(key.secret, PREFIX) and key.digest == digest_of(key.secret) for key in made)
    assert all(key.secret.endswith(key.hint) and len(key.hint) == 4 for key in made)
