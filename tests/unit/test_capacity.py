"""What a replica does at once follows from WORKER_CONCURRENCY."""

from __future__ import annotations

import pytest

from app.capacity import Capacity, capacity_of
from app.settings import Settings


def capacity(**given: int) -> Capacity:
    return capacity_of(Settings(_env_file=None, **given))


@pytest.mark.parametrize(("answers", "connections"), [(1, 15), (50, 15), (200, 15), (400, 20), (1000, 50)])
def test_connections_to_postgres_are_a_twentieth_of_the_answers_within_bounds(answers: int, connections: int) -> None:
    assert capacity(worker_concurrency=answers).database_connections == connections


def test_a_number_that_is_set_is_taken_as_it_is() -> None:
    assert capacity(worker_concurrency=200, database_connections=3).database_connections == 3


@pytest.mark.parametrize("answers", [1, 50, 200, 1000])
def test_nothing_is_claimed_that_cannot_be_worked_on(answers: int) -> None:
    has = capacity(worker_concurrency=answers)
    assert has.answers == answers
    assert min(has.http_calls_per_host, has.rest_calls, has.redis_connections) >= answers
    assert has.http_calls_per_host > answers or answers == 1, "read receipts go beside the sends"
