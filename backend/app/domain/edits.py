"""What the customer asks, once their edits are taken into account. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from app.domain.models import Edit, Inbound, InboundMessage
from app.domain.webhook import expects_answer

LATE_EDIT = "[The customer changed an earlier message to:]"
"""Before the new words of a message that was answered already."""

_UNSAID = re.compile(r"[\s.,;:!?¡¿…'\"()«»“”\u2018\u2019-]+")
"""Spaces and punctuation."""


def questions(run: Sequence[InboundMessage], inbound: Inbound) -> tuple[tuple[InboundMessage, ...], tuple[str, ...]]:
    """The messages of the run to answer, and the ids of all that the answer to them finishes, oldest first.

    A message edited before its answer is asked with its new words, and its edits ask nothing of their own. An edit that
    comes after the answer asks again if it changed a word; one that only mends case, spaces or punctuation does not.
    """
    edits = {edit.wa_message_id: edit for edit in inbound.edits}
    in_run = {message.wa_message_id for message in run if expects_answer(message)}
    asked: list[InboundMessage] = []
    covers: list[str] = []
    for message in run:
        wamid = message.wa_message_id
        edit = edits.get(wamid)
        if not expects_answer(message):
            continue
        if edit is None and wamid not in inbound.superseded_ids:
            asked.append(replace(message, text=inbound.edited.get(wamid, message.text)))
        elif edit is not None and edit.original_id not in in_run and _says_something_else(edit, message):
            asked.append(replace(message, text=f"{LATE_EDIT} {message.text}"))
        elif not asked:
            continue  # finished with the next question, or alone
        covers.append(wamid)
    return tuple(asked), tuple(covers)


def _says_something_else(edit: Edit, message: InboundMessage) -> bool:
    before, after = (_UNSAID.sub(" ", text or "").casefold().strip() for text in (edit.before, message.text))
    return before != after
