"""Of several statuses of one message only the one that says it all is applied."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from app.domain.webhook import Kind
from app.services.ingest_service import Incoming
from app.services.statuses import superseded


def incoming(name: object, wamid: str = "w1", key: str | None = "k#0") -> Incoming:
    status = {"id": wamid, "status": name, "biz_opaque_callback_data": key}
    return Incoming(Kind.STATUS, "1", {"status": status}, datetime.now(UTC))


@pytest.mark.parametrize(
    ("names", "needless"),
    [
        (["sent", "delivered", "read"], {0, 1}),
        (["read", "sent", "delivered"], {1, 2}),
        (["sent", "sent"], {1}),
        (["sent", "failed"], set()),
        (["failed", "read", "delivered"], {2}),
        (["sent", "a status of next year", None, 7, "read"], {0}),
        (["read"], set()),
    ],
)
def test_a_higher_status_makes_the_others_of_its_message_needless_and_never_a_failure(
    names: Sequence[object], needless: set[int]
) -> None:
    assert superseded([incoming(name) for name in names]) == needless


def test_messages_are_told_apart_by_wamid_and_by_our_key() -> None:
    run = [incoming("sent"), incoming("read", "w2"), incoming("read", key="k#1"), incoming("read", key=None)]
    assert superseded(run) == set()
