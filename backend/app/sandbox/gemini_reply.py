"""The reply the stand-in writes: facts quoted from the system instruction, chosen by the words they share with the
question. Deterministic: the same request gives the same text."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from app.sandbox.gemini_words import FILLER, SMALL_TALK, THANKS, Phrases, language_of, plain_words, stems

Turns = Sequence[tuple[str, str]]

MAX_FACT_CHARACTERS = 400
MAX_FACTS_PER_QUESTION = 2
MAX_QUESTIONS = 8
"""Lines of the last turn that are answered, the latest ones."""
_WORTH_ADDING = 0.4
"""Share of the first fact's score that a second one must reach."""
_MARKER = re.compile(r"#[\w-]+")
_NAME = re.compile(
    r"(?:(?:customer|contact|client)(?:['\u2019]s)? name|nom du (?:client|contact))(?: (?:is|est)\b|[^\n:\"]{0,80}:)"
    r"\s*\"?([^\n.,;\"]{1,60})",
    re.IGNORECASE,
)
_HEADING = re.compile(r"^(?:#+ *(?P<hash>.+)|(?P<caps>[A-ZÀ-Ý][A-ZÀ-Ý '&-]{3,60}:?)|(?P<colon>[^:\n]{2,60}:))$")
_INSTRUCTIONS = re.compile(r"\b(rules?|règles?|instructions?|hand over|escalat|customer)", re.IGNORECASE)
_FOR_THE_BOT = re.compile(
    r"^(you are|you answer|never|always|do not|don't|answer (only|in)|tu es|vous êtes|réponds|ne jamais|toujours)\b",
    re.IGNORECASE,
)
_YES_OR_NO = re.compile(r"(yes|no|oui|non|sí|ja|nein)\b", re.IGNORECASE)
_LABEL = re.compile(r"[^:.]{2,40}(?=: )")
_LIST = re.compile(r"^- ([^\n]+:)\n((?: +- .+(?:\n|$))+)", re.MULTILINE)
_PRICE_FIELD = re.compile(r"; (?:price|prix): ", re.IGNORECASE)
_FIELD = re.compile(r"; [A-Z][a-z ]{1,30}: ")
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+(?=[A-ZÀ-Ý0-9«\"])")


@dataclass(frozen=True, slots=True)
class Fact:
    """`about`: its own words and, if it answers a question, the question's; `label`: those before a colon;
    `section`: the words of its heading."""

    text: str
    about: frozenset[str]
    label: frozenset[str]
    section: frozenset[str]


@dataclass(frozen=True, slots=True)
class Knowledge:
    facts: tuple[Fact, ...]
    weights: dict[str, float]
    """How telling each stem is: the rarer, the more."""

    def score(self, asked: frozenset[str], fact: Fact) -> float:
        """A shared word counts once, half as much more in the label, half as much if only the heading has it."""
        return sum(
            self.weights[stem] * ((stem in fact.about) + 0.5 * (stem in fact.label or stem not in fact.about))
            for stem in asked & (fact.about | fact.section)
        )


def compose(system: str, turns: Turns) -> str:
    """The answer to the last turn. Its `#markers` come back at the end, so that a test can tell what was answered."""
    question = turns[-1][1]
    users = [text for role, text in reversed(turns) if role == "user"]
    phrases = language_of(*users)
    body = _body(question, _knowledge(_NAME.sub("", system)), phrases)
    markers = list(dict.fromkeys(_MARKER.findall(question)))
    return "".join([
        _greeting(system, phrases) if len(turns) == 1 else "",
        body,
        f" ({' '.join(markers)})" if markers else "",
    ])  # fmt: skip


def _greeting(system: str, phrases: Phrases) -> str:
    name = _NAME.search(system)
    return phrases.hello_named.format(name=name.group(1).strip()) if name else phrases.hello


def _body(question: str, knowledge: Knowledge, phrases: Phrases) -> str:
    plain = _MARKER.sub("", question)
    words = set(plain_words(plain))
    if words & THANKS and words <= SMALL_TALK | THANKS | FILLER:
        return phrases.thanks
    if not stems(plain):
        return phrases.welcome
    lines = [line for line in plain.splitlines() if line.strip()][-MAX_QUESTIONS:]
    found = list(dict.fromkeys(fact.text for line in lines for fact in _best(stems(line), knowledge)))
    if not found:
        return phrases.unknown
    pick = hashlib.sha256(question.encode()).digest()
    lead = "" if _YES_OR_NO.match(found[0]) else phrases.leads[pick[0] % len(phrases.leads)]
    return "\n".join([lead + found[0], *found[1:], phrases.closings[pick[1] % len(phrases.closings)]])


def _best(asked: frozenset[str], knowledge: Knowledge) -> list[Fact]:
    """The fact that shares most with what was asked, then the one that covers most of the rest."""
    chosen: list[Fact] = []
    enough = 0.0
    for _ in range(MAX_FACTS_PER_QUESTION):
        best = max(knowledge.facts, key=lambda fact: knowledge.score(asked, fact), default=None)
        score = knowledge.score(asked, best) if best else 0.0
        if best is None or score <= enough:
            break
        chosen.append(best)
        asked -= best.about
        enough = score * _WORTH_ADDING
    return chosen


@lru_cache(maxsize=256)
def _knowledge(system: str) -> Knowledge:
    facts = tuple(_facts(system))
    seen = Counter(stem for fact in facts for stem in fact.about | fact.section)
    return Knowledge(facts, {stem: math.log(1 + len(facts) / n) for stem, n in seen.items()})


def _facts(system: str) -> list[Fact]:
    """Sentences and lines of the sections that inform; what instructs the bot is not for customers."""
    facts: list[Fact] = []
    heading, question = "", ""
    system = _LIST.sub(_on_one_line, system)
    for line in (raw.strip().removeprefix("- ").strip() for raw in system.splitlines()):
        title = _HEADING.match(line)
        if title:
            heading, question = next(filter(None, title.groups())), ""
        elif not line or _INSTRUCTIONS.search(heading) or _FOR_THE_BOT.match(line):
            continue
        elif line.endswith("?"):
            question = line
        else:
            sentences = [line] if question else _SENTENCE_END.split(line)
            facts += [_fact(sentence, heading, question) for sentence in sentences]
            question = ""
    return facts


def _on_one_line(found: re.Match[str]) -> str:
    """`- Payment:` and the bullets below it, as `Payment: cash, card`."""
    return f"- {found[1]} {', '.join(item.strip().removeprefix('- ') for item in found[2].splitlines())}\n"


def _fact(sentence: str, heading: str, question: str) -> Fact:
    label = _LABEL.match(sentence)
    return Fact(
        _finished(sentence),
        stems(sentence) | stems(question),
        stems(label[0]) if label else frozenset(),
        stems(heading),
    )


def _finished(sentence: str) -> str:
    sentence = _FIELD.sub(lambda field: field[0].lower(), _PRICE_FIELD.sub(": ", sentence.strip().removeprefix("A: ")))
    if len(sentence) > MAX_FACT_CHARACTERS:
        sentence = sentence[:MAX_FACT_CHARACTERS].rsplit(" ", 1)[0] + "…"
    return sentence if sentence.endswith((".", "!", "?", "…")) else sentence + "."
