"""What a run of messages asks: its texts, with the files that the model is shown, and what it cannot be shown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from app.domain.foreign_text import quoted
from app.domain.media import DESCRIPTION_CHARACTERS, Media, announced, described, label_of, quoted_id
from app.domain.models import Attachment, InboundMessage

QUOTED_CHARACTERS = 500
UNSEEN = "[The customer also sent something that is not text and that you cannot see.]"


class _Collected(Protocol):
    @property
    def files(self) -> Mapping[str, Media]: ...

    @property
    def quoted(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Shown:
    """A file that the model is shown, and what its message says without it."""

    media: Media
    label: str
    caption: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """`texts`: of the messages in order; `files`: which file belongs behind which of them, by its index.
    `for_a_person`: there is a file that the model is not shown and that a person may open."""

    texts: tuple[str, ...]
    files: Mapping[int, Attachment] = field(default_factory=dict)
    shown: tuple[Shown, ...] = ()
    """By their numbers in the texts, from 1."""
    for_a_person: bool = False

    def told(self, contents: Mapping[int, str]) -> list[tuple[Media, str, str]]:
        """(file, what it says, what its message says from now on), by what the model said of each number."""
        return [
            (shown.media, content, described(shown.label, shown.caption, content))
            for number, shown in enumerate(self.shown, 1)
            if (content := contents.get(number, "").strip()[:DESCRIPTION_CHARACTERS])
        ]

    def without_files(self) -> Question:
        """What is left if the model takes none of them; perhaps nothing."""
        captions = {index: shown.caption for index, shown in zip(self.files, self.shown, strict=True)}
        left = [captions.get(index, text) for index, text in enumerate(self.texts)]
        texts = [text for text in left if text and text != UNSEEN]
        return replace(self, texts=(*texts, UNSEEN) if texts else (), files={}, shown=())


def read(messages: Sequence[InboundMessage], collected: _Collected, attachments: Mapping[str, Attachment]) -> Question:
    """`attachments`: what of the messages' files the model is shown, by the messages' ids."""
    texts: list[str] = []
    files: dict[int, Attachment] = {}
    shown: list[Shown] = []
    is_unseen = for_a_person = False
    for message in messages:
        media, attachment = collected.files.get(message.wa_message_id), attachments.get(message.wa_message_id)
        if media is not None and attachment is not None:
            told = announced(message)
            label = told.label if told else label_of(media.kind)
            text = _with_quoted(message, collected, f"[file {len(shown) + 1}: {label}]")
            files[len(texts)] = attachment
            shown.append(Shown(media, label, message.text, text))
            texts.append(f"{text}\n{message.text}" if message.text else text)
            continue
        is_unseen |= media is not None or not message.text
        for_a_person |= media is not None and _helps_a_person(media)
        if message.text:
            texts.append(_with_quoted(message, collected, message.text))
    if is_unseen and texts:
        texts.append(UNSEEN)
    return Question(tuple(texts), files, tuple(shown), for_a_person)


def _with_quoted(message: InboundMessage, collected: _Collected, text: str) -> str:
    """With the words that the customer marked as what they answer."""
    words = quoted(collected.quoted.get(quoted_id(message.payload) or ""), QUOTED_CHARACTERS)
    return f"[in reply to {words}]\n{text}" if words else text


def _helps_a_person(media: Media) -> bool:
    return media.kind in ("document", "video") or (media.is_kept and media.kind != "sticker")
