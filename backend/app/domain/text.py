"""Splitting a long reply into WhatsApp messages, and ending one that was cut off."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import regex

from app.domain.models import TEXT_LIMIT

_BREAKS = ("\n\n", "\n", ". ", "。", " ")
_FENCE = "```"
_CLUSTER = regex.compile(r"\X")
_LEADING_SPACE = regex.compile(r"(?:\s(?![\p{M}\u200d]))+")
_OPENER = regex.compile(r"```|(?<![\w*_~`])[*_~`](?=\S)")
_CLOSER = regex.compile(r"(?<=\S)[*_~`](?![\w*_~`])")
"""Around what WhatsApp shows as code, bold, italic or struck through; all but a code block end on their line."""

_SENTENCE_END = regex.compile(
    r"""(?: [!?…؟۔।॥։።]+ | (?<!^\s*\d+) (?<!\n\s*\d+) (?<!\b\p{L}) \.+ | [。！？｡] )  # not the dot of "2." or "e.g."
        ["'»”’)\]）】」』*_~`]*                                          # what closes with the sentence
        (?= \s | $ | (?<=[。！？｡]["'»”’)\]）】」』*_~`]*) )
        | \n""",  # noqa: RUF001 -- the marks of other scripts
    regex.VERBOSE | regex.VERSION1,
)
_LAST_GAP = regex.compile(r"\s+(?=\S*$)")
_NO_GAPS = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
"""Scripts that write words without spaces between them: there the last letter goes."""
_LETTER = regex.compile(r"\p{L}")


def split_text(text: str, limit: int = TEXT_LIMIT) -> list[str]:
    """`text` in as few parts of at most `limit` as paragraphs, lines, sentences or words allow, in that order of
    preference. Deterministic: a retry finds the same parts.

    Meta does not say what it counts: `limit` is in UTF-16 units, one or two a character, so that a part
    fits whether it is those or characters. A cut never falls into a grapheme cluster (an emoji of several code points,
    a flag, a letter with its accents), nor into a pair of WhatsApp's marks: it falls before the pair, or, if the pair
    is longer than a message, the marks are closed and opened again. Only a cluster longer than `limit` is cut.
    """
    parts: list[str] = []
    rest = text.strip()
    while _units(rest) > limit:
        head, rest = _cut(rest, limit)
        parts.append(head)
    return [*parts, rest] if rest else parts


def whole_sentences(text: str) -> str:
    """`text`, which was cut off somewhere, up to the end of its last sentence or line; without one, up to its last
    whole word and an ellipsis. Empty if there is not one whole word. What was opened before the cut is closed."""
    text = text.rstrip()
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    if ends and ends[-1] == len(text) and text[-1] == "." and text[-2:-1].isdecimal():
        ends.pop()  # the dot of "3.50", perhaps
    if ends and (whole := text[: ends[-1]].rstrip()):
        return _closed(whole)
    if _NO_GAPS.search(text[-1:]):
        start = [match.start() for match in _CLUSTER.finditer(text)][-1]
    else:
        start = gap.start() if (gap := _LAST_GAP.search(text)) else 0
    whole = text[:start].rstrip(" ,;:、，；：")  # noqa: RUF001 -- as above
    return _closed(whole) + "…" if _LETTER.search(whole) else ""


@dataclass(frozen=True, slots=True)
class _Marked:
    """A stretch of text between a pair of marks, both included. `close` and `reopen` join its halves after a cut."""

    start: int
    end: int
    close: str
    reopen: str


def _units(text: str) -> int:
    return len(text) + sum(character > "\uffff" for character in text)


def _cut(text: str, limit: int) -> tuple[str, str]:
    """The next part and the rest, which is longer than `limit`."""
    boundaries = list(_boundaries(text, limit))
    if not boundaries:  # one cluster is longer than a message
        at = len(_prefix(text, limit))
        return text[:at], text[at:]
    marked = _marked(text, boundaries[-1])
    free = _outside(boundaries, marked)
    at = _preferred(text, free, boundaries[-1]) if free else 0
    if at:
        return _halves(text, at)
    around = marked[0]  # it begins where the text does, and is longer than a message
    opened, room = len(around.reopen), limit - len(around.close)
    inside = [at for at in boundaries if opened < at and _units(text[:at]) <= room and at < around.end - opened]
    at = _preferred(text, inside, inside[-1]) if inside else 0
    if not at:
        return _halves(text, boundaries[-1])
    head, rest = _halves(text, at)
    return head + around.close, around.reopen + rest


def _halves(text: str, at: int) -> tuple[str, str]:
    head, rest = text[:at].rstrip(), text[at:]
    space = _LEADING_SPACE.match(rest)
    rest = rest[space.end() :] if space else rest
    return (head, rest) if head else (text[:at], rest)


def _boundaries(text: str, limit: int) -> Iterator[int]:
    """The ends of the clusters that fit, in order."""
    units = 0
    for cluster in _CLUSTER.finditer(text):
        units += _units(cluster[0])
        if units > limit:
            return
        yield cluster.end()


def _prefix(text: str, limit: int) -> str:
    """As many characters as fit, one at least."""
    units = 0
    for index, character in enumerate(text):
        units += _units(character)
        if units > limit and index:
            return text[:index]
    return text


def _marked(text: str, until: int) -> list[_Marked]:
    """The pairs of marks that begin before `until`, in order, none within another. Linear in the text's length."""
    closers: dict[str, list[int]] = defaultdict(list)
    for closer in _CLOSER.finditer(text, 0, 2 * until):  # a pair that ends further away is left as it is
        closers[closer[0]].append(closer.start())
    found: list[_Marked] = []
    last_fence = text.rfind(_FENCE)
    done = line_end = 0
    for opener in _OPENER.finditer(text, 0, until):
        start, mark = opener.start(), opener[0]
        if start < done:
            continue
        if mark == _FENCE:
            if start < last_fence:
                done = text.index(_FENCE, opener.end()) + len(_FENCE)
                found.append(_Marked(start, done, f"\n{_FENCE}", f"{_FENCE}\n"))
            continue
        if line_end <= start:
            line_end = text.find("\n", start) % (len(text) + 1)
        ends = closers[mark]
        index = bisect_right(ends, start + 1)
        if index < len(ends) and ends[index] < line_end:
            done = ends[index] + 1
            found.append(_Marked(start, done, mark, mark))
    return found


def _outside(cuts: list[int], marked: list[_Marked]) -> list[int]:
    """The `cuts` that fall into no pair; both are in order."""
    free, pairs = [], iter(marked)
    pair = next(pairs, None)
    for at in cuts:
        while pair is not None and pair.end <= at:
            pair = next(pairs, None)
        if pair is None or at <= pair.start:
            free.append(at)
    return free


def _preferred(text: str, cuts: list[int], furthest: int) -> int:
    """The last cut behind a paragraph, else a line, a sentence, a word, else the last one of all."""
    # The first half is too early a place: the parts would be many, and each one spends the pair rate.
    late = [at for at in cuts if at > furthest // 2]
    for mark in _BREAKS:
        for at in reversed(late):
            if text.endswith(mark, 0, at):
                return at
    return cuts[-1]


def _closed(text: str) -> str:
    """`text` with the Markdown closed that a cut has left open."""
    if text.count(_FENCE) % 2:
        return f"{text}\n{_FENCE}"
    for mark in ("**", "__", "~~"):
        if text.count(mark) % 2:
            head, _, tail = text.rpartition(mark)
            text = f"{text}{mark}" if tail.strip() else head.rstrip()
    return text
