"""Random histories of people and numbers on a real database."""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.support.identity_machine import Identities, IdentityTables

SETTINGS = settings(
    max_examples=150,
    stateful_step_count=30,
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


def test_nobody_has_two_conversations_and_no_conversation_has_two_people(store_url: str) -> None:
    with asyncio.Runner() as runner:
        world = IdentityTables(store_url, runner)
        try:
            run_state_machine_as_test(type("Histories", (Identities,), {"world": world}), settings=SETTINGS)
        finally:
            world.close()
