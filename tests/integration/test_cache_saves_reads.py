"""What the cache is for: a conversation's profile and account come from memory."""

from __future__ import annotations

import asyncio

from app.core.cache import default_cache, join_fleet
from app.sandbox import webhooks as wa


async def test_a_mixed_load_reads_profiles_and_accounts_from_the_database_for_less_than_a_fifth(
    make_office, valkey_url, cache_timings, monkeypatch
):
    monkeypatch.setattr(default_cache, "timings", cache_timings)
    async with join_fleet(default_cache, valkey_url, namespace="test"):
        office = await make_office()
        before = default_cache.stats()
        people = [office.person(f"Customer {number}") for number in range(8)]
        for number in range(4):
            await asyncio.gather(*(office.receive(person, wa.text(person, f"Hello {number}")) for person in people))
            await office.until_idle()
            if number % 3 == 2:  # somebody edits the profile now and then
                await default_cache.invalidate(f"bot_profile:account_{office.account.id}")
        after = default_cache.stats()
        loads = after.loads - before.loads
        asked = sum(
            getattr(after, name) - getattr(before, name) for name in ("hits", "shared_hits", "coalesced", "misses")
        )
        assert asked >= 40
        assert loads <= 0.2 * asked
