"""How much one replica does at once. All of it follows from WORKER_CONCURRENCY: what is claimed can be worked on.

answers in the making          WORKER_CONCURRENCY: as many calls of the model, and as many sends
calls of one HTTP host         those, and the read receipts that go beside them; 50 or more
connections to Postgres        a twentieth, 15 to 50, unless DATABASE_CONNECTIONS says otherwise: an answer waits for
                               the model most of the time, and for Postgres some 10 ms. Opened as they are needed
runs whose files are fetched   a quarter, 2 to 10: files that hang must not keep texts from being answered
calls of Supabase over REST    as many, 50 or more: they go through the HTTP client, and take longer
connections to Redis           as many, and some for what is no answer
"""

from __future__ import annotations

from dataclasses import dataclass

from app.services.courtesy import MAX_AT_ONCE
from app.settings import Settings

LEAST_HTTP_CALLS = 50
LEAST_CONNECTIONS, MOST_CONNECTIONS = 15, 50
"""PostgreSQL allows 100 in all by default: six replicas. Most of an answer's time there is the disk's, at its commits,
and those of several connections reach the disk together: with 10 a quick model's answers wait here for a connection."""
ANSWERS_PER_CONNECTION = 20
MOST_RUNS_WITH_FILES = 10
SPARE_REDIS_CONNECTIONS = 20
"""The API's, and the worker's own calls."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """Numbers of calls and connections at once."""

    answers: int
    http_calls_per_host: int
    runs_with_files: int
    database_connections: int
    rest_calls: int
    redis_connections: int


def capacity_of(settings: Settings) -> Capacity:
    answers = settings.worker_concurrency
    follows = max(LEAST_CONNECTIONS, min(MOST_CONNECTIONS, answers // ANSWERS_PER_CONNECTION))
    return Capacity(
        answers=answers,
        http_calls_per_host=max(LEAST_HTTP_CALLS, answers + MAX_AT_ONCE),
        runs_with_files=max(2, min(MOST_RUNS_WITH_FILES, answers // 4)),
        database_connections=settings.database_connections or follows,
        rest_calls=max(LEAST_HTTP_CALLS, answers),
        redis_connections=answers + SPARE_REDIS_CONNECTIONS,
    )
