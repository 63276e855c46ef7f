"""Of several statuses of one message only the one that says it all is applied."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from app.domain.webhook import Kind
from app.services.ingest_service import Incoming
from app.services.statuses import in_fewer_steps


def incoming(name: object, wamid: str = "w1", key: str | None = "k#0") -> Incoming:
    status = {"id": wamid, "status": name, "biz_opaque_callback_data": key}
    return Incoming(Kind.STATUS, "1", {"status": status}, datetime.now(UTC))


@pytest.mark.parametrize(
    ("names", "applied"),
    [
        (["sent", "delivered", "read"], ["read", None, None]),
        (["read", "sent", "delivered"], ["read", None, None]),
        (["sent", "sent"], ["sent", None]),
        (["sent", "failed"], ["sent", "failed"]),
        (["failed", "read", "delivered"], ["failed", "read", None]),
        (["sent", "failed", "delivered"], ["delivered", "failed", None]),
        (["sent", "a status of next year", None, 7, "read"], ["read", "a status of next year", None, 7, None]),
        (["read"], ["read"]),
    ],
)
def test_the_highest_status_of_a_message_is_applied_where_its_first_one_stands_and_failures_by_themselves(
    names: Sequence[object], applied: Sequence[object]
) -> None:
    steps = in_fewer_steps([incoming(name) for name in names])
    assert [step and step.body["status"]["status"] for step in steps] == applied


def test_messages_are_told_apart_by_wamid_and_by_our_key() -> None:
    run = [incoming("sent"), incoming("read", "w2"), incoming("read", key="k#1"), incoming("read", key=None)]
    assert in_fewer_steps(run) == run


def test_the_statuses_of_two_messages_of_a_conversation_do_not_mix() -> None:
    names = [("sent", "w1"), ("sent", "w2"), ("delivered", "w1"), ("delivered", "w2"), ("read", "w2")]
    steps = in_fewer_steps([incoming(name, wamid) for name, wamid in names])
    said = [step and (step.body["status"]["status"], step.body["status"]["id"]) for step in steps]
    assert said == [("delivered", "w1"), ("read", "w2"), None, None, None]
