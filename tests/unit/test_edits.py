"""What is asked after edits, and what the answer to it finishes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from app.domain.edits import LATE_EDIT, questions
from app.domain.models import Contact, Conversation, Edit, Inbound, InboundMessage

NOW = datetime(2026, 11, 27, tzinfo=UTC)
CONVERSATION = Conversation("c", "a", Contact("k", "336", None, None), True, False, 0, NOW, NOW, NOW)


def message(wamid: str, text: str | None, kind: str = "text") -> InboundMessage:
    return InboundMessage(wamid, kind, text, NOW, {"id": wamid, "type": kind})


def ask(*run: InboundMessage, **found: object) -> tuple[list[str | None], tuple[str, ...]]:
    asked, covers = questions(run, Inbound(CONVERSATION, frozenset(), **found))
    return [question.text for question in asked], covers


def test_without_edits_all_that_expects_an_answer_is_asked() -> None:
    assert ask(message("1", "a"), message("2", "👍", "reaction"), message("3", "b")) == (["a", "b"], ("1", "3"))


def test_an_edited_message_is_asked_once_with_its_present_words() -> None:
    edits = (Edit("2", "1", "three"), Edit("3", "1", "two"))
    run = (message("1", "three"), message("2", "two", "edit"), message("3", "one", "edit"))
    assert ask(*run, edits=edits, edited={"1": "one"}) == (["one"], ("1", "2", "3"))


def test_an_edit_that_came_by_another_way_counts_too() -> None:
    assert ask(message("1", "three"), edited={"1": "two"}) == (["two"], ("1",))


@pytest.mark.parametrize(
    ("before", "after", "again"),
    [
        ("three lamps", "two lamps", True), ("three lamps", "Three  lamps!", False), (None, "a caption", True),
        ("two", "two", False), ("ça va", "ca va", True), ("👍", "👎", True), ("ok 👍", "ok", True),
    ],
)  # fmt: skip
def test_an_edit_after_the_answer_asks_again_if_it_changed_a_word(
    before: str | None, after: str, *, again: bool
) -> None:
    asked, _ = ask(message("2", after, "edit"), edits=(Edit("2", "1", before),))
    assert asked == ([f"{LATE_EDIT} {after}"] if again else [])


def test_an_edit_that_asks_nothing_is_finished_with_the_question_before_it() -> None:
    quiet = Edit("q", "0", "hello")
    run = (message("1", "a"), message("q", "Hello", "edit"))
    assert ask(*run, edits=(quiet,)) == (["a"], ("1", "q"))
    assert ask(*reversed(run), edits=(quiet,)) == (["a"], ("1",))


def test_an_edit_of_an_unknown_message_is_a_question_and_its_original_is_none() -> None:
    run = (message("2", "two", "edit"), message("1", "three"))
    assert ask(*run, superseded_ids=frozenset({"1"})) == (["two"], ("2", "1"))


def test_an_edit_without_words_and_one_in_a_group_ask_nothing() -> None:
    in_group = InboundMessage("3", "edit", "x", NOW, {"group_id": "g"})
    assert ask(message("2", None, "edit"), in_group) == ([], ())
