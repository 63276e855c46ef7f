"""Everything that `make chaos` plays besides the long schedule, by name.

A *scenario* has every step in its hand, holds or raises `Broken`, and has a mutation that must break it (mutations.py).
A *measurement* is a comparison with figures of its own and bars for them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

from app.localhost.servers import Valkey

from . import bad_way, database, events_out, fairness, files, given_up, outages, own_limits, pooler, scenarios, shares
from .database import DATABASE_SCENARIOS
from .failover import database_loses_seconds
from .moved_clock import LIBRARIES, MovedValkey
from .name_server import why_not
from .names import names_that_hang
from .redis_faults import another_database_on_the_namespace, clock_an_hour_ahead, full_redis
from .scenarios import SCENARIOS
from .world import ChaosWorld

Scenario = Callable[[ChaosWorld], Awaitable[None]]


SHARES_SECONDS = 10.0


class Measured(Protocol):
    def problems(self) -> Sequence[str]: ...

    def table(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Measurement:
    """`run` in a world with these settings; how many businesses it needs."""

    run: Callable[[ChaosWorld], Awaitable[Measured]]
    settings: Mapping[str, str] = field(default_factory=dict)
    businesses: int = 2


MEASUREMENTS: Mapping[str, Measurement] = {
    "fairness": Measurement(fairness.hanging_gemini, fairness.SETTINGS),
    "own-limits": Measurement(own_limits.limits_as_load),
    "a model that is down": Measurement(fairness.broken_model, fairness.IMPATIENT_SETTINGS),
    "long messages": Measurement(fairness.long_messages, fairness.SETTINGS),
    "a slow model": Measurement(fairness.slow_model, fairness.SETTINGS),
    "a receiver that hangs": Measurement(events_out.hanging_receiver),
    "hanging files": Measurement(files.hanging_files, fairness.SETTINGS),
    "large files": Measurement(files.large_files, fairness.SETTINGS),
    "shares": Measurement(partial(shares.measure, seconds=SHARES_SECONDS), shares.SETTINGS),
    "a full mailbox, a small Redis": Measurement(
        partial(shares.measure_default_size, seconds=SHARES_SECONDS), shares.DEFAULT_SIZE
    ),
}

_IN_A_WORLD_OF_ITS_OWN = {clock_an_hour_ahead} if LIBRARIES else set()
"""Without libfaketime no clock can be moved."""
_WITH_A_POOLER = (pooler.pooler_switched,) if pooler.IS_HERE else ()
_WITH_A_NAME_SERVER = () if why_not() else (names_that_hang,)
"""Only root can give a process a name server of its own."""

LONG: Mapping[str, Scenario] = bad_way.SCENARIOS
"""About a minute each: played by `make chaos` only."""

IN_TURN: Mapping[str, str] = {
    name: dependency for dependency in bad_way.DEPENDENCIES for name in LONG if name.startswith(f"{dependency}_lost")
}
"""The longest ones, by dependency: those of one of them with each seed."""

EVERY_SCENARIO: Mapping[str, Scenario] = {
    **SCENARIOS,
    **DATABASE_SCENARIOS,
    **LONG,
    **outages.SCENARIOS,
    **{
        scenario.__name__: scenario
        for scenario in (
            full_redis,
            another_database_on_the_namespace,
            own_limits.answers_of_one_moment,
            own_limits.database_slots_taken,
            given_up.gemini_back,
            given_up.quota_for_a_day,
            given_up.given_up_message_calls_a_person,
            database_loses_seconds,
            files.files_fetched_once_when_killed,
            *_WITH_A_POOLER,
            *_WITH_A_NAME_SERVER,
            *_IN_A_WORLD_OF_ITS_OWN,
        )
    },
}


def scenarios_of(seed: int) -> Sequence[str]:
    """What `make chaos` plays with this seed: all but those of the other dependencies in turn."""
    dependency = bad_way.DEPENDENCIES[seed % len(bad_way.DEPENDENCIES)]
    return [name for name in EVERY_SCENARIO if IN_TURN.get(name, dependency) == dependency]


class Place(NamedTuple):
    """Scenarios of one place share a world: its Redis server, and the replicas' settings."""

    server: type[Valkey]
    settings: tuple[tuple[str, str], ...]


def place_of(name: str) -> Place:
    scenario = EVERY_SCENARIO[name]
    server = MovedValkey if scenario in _IN_A_WORLD_OF_ITS_OWN else Valkey
    settings = scenarios.SETTINGS
    if name in DATABASE_SCENARIOS:
        settings = database.SETTINGS
    elif scenario is given_up.gemini_back:
        settings = given_up.PATIENT_SETTINGS
    elif scenario is bad_way.woken_replica:
        settings = bad_way.WOKEN_SETTINGS
    elif name in LONG:
        settings = bad_way.SETTINGS
    return Place(server, tuple(settings.items()))
