"""The measure itself: which accepted webhooks the promise of a fast answer is about."""

from __future__ import annotations

import pytest

from .ingest import Ingest
from .schedule import Outage
from .traffic import Post

FROZEN = Outage("replica", 10, 15, replica=1)
VALKEY = Outage("valkey", 20, 25)
FULL = Outage("machine", 0.5, 1.5)
POSTS = (
    Post(1, 0.01, 200, 0),
    Post(12, 0.02, 200, 0),
    Post(14, 1.50, 200, 1),  # woke at 15
    Post(24, 0.90, 200, 0),  # Valkey came back in time
    Post(21, 0.95, 503, 0),
    Post(13, 2.00, 0, 1),
)


@pytest.mark.parametrize(("fallback", "judged"), [(False, [0.01, 0.02]), (True, [0.01, 0.02, 0.90])])
def test_a_frozen_replica_is_an_excuse_and_an_outage_of_valkey_only_without_a_fallback(
    fallback: bool, judged: list[float]
) -> None:
    ingest = Ingest(POSTS, [FROZEN, VALKEY, FULL], own_clocks=(), fallback=fallback)
    assert ingest.judged == judged, "a full machine is no excuse"
    assert ingest.with_idle_time == judged[1:]
    assert ingest.by_frozen == [1.50]
    assert ingest.without_queue == [0.90]
    assert (len(ingest.accepted), ingest.refused, ingest.unanswered) == (4, [0.95], 1)
