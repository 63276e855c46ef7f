"""The stand-in's reply: lines of the system instruction that share words with the question; the same each time."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from textwrap import shorten

MAX_FACT_CHARACTERS, MAX_QUESTIONS = 400, 8  # the latest lines of the last turn
LANGUAGES = (  # greeting; no fact found; thanked; last line; the words that the language is known by
    ("Hello{}! ", "I don't have that information here, and I would rather not guess.", "You're welcome!",
     "How can I help?", "the are you do have how what where when thank very is an and my to hello hi can i a sell"),
    ("Bonjour{} ! ", "Je n'ai pas cette information et je préfère ne rien inventer.", "Avec plaisir !", "Et avec ça ?",
     "bonjour vous etes avez est le les des quels ou merci beaucoup combien un une et je votre"),
    ("¡Hola{}! ", "No tengo esa información y prefiero no inventar nada.", "¡De nada!", "¿Qué desea?",
     "hola el los las tienen tiene cuanto cuesta donde gracias y su"),
    ("Hallo{}! ", "Das weiß ich leider nicht und möchte nicht raten.", "Gern geschehen!", "Was darf es sein?",
     "sie ist sind haben der die das wo wie viel danke hallo und am ein"),
)  # fmt: skip
TOPIC_OF = {word: words for words in (  # different words for one thing
    "hours open opening ouverts ouvert abierto offen", "sunday dimanche domingo sonntag", "monday lundi lunes montag",
    "eur price much combien coute cuesta kostet", "address where situes donde wo", "delivery deliver livrez lieferung",
    "payment pay payer pagar zahlen",
) for word in words.split()}  # fmt: skip
FILLER = {word for *_, words in LANGUAGES for word in words.split()} - TOPIC_OF.keys()
_MARKER = re.compile(r"#[\w-]+")
_FOR_THE_BOT = re.compile(r"(?im)^You are .*|^## .*(rules|customer|hand over).*\n(?:(?!##).*\n?)*")


def compose(system: str, turns: Sequence[tuple[str, str]]) -> str:
    """The answer to the last turn. Its `#markers` come back at the end, so that a test can tell what was answered."""
    question, name = _MARKER.sub("", turns[-1][1]), re.search(r"customer's name[^\n:\"]*: \"([^\n\"]+)\"", system)
    hello, unknown, thanked, last_line, _ = _language([text for role, text in reversed(turns) if role == "user"])
    asked = [words for line in question.splitlines() if (words := _words(line))][-MAX_QUESTIONS:]
    facts = _facts(system)
    said = [*{fact: None for words in asked if (fact := _best(words, facts))}] or [unknown] * bool(asked)
    if re.search(r"(?i)\b(thank|merci|gracias|danke)", question) and "?" not in question:
        said = [thanked]
    greeting = hello.format(f" {name[1]}" if name else "") if len(turns) == 1 else ""
    markers = " ".join(dict.fromkeys(_MARKER.findall(turns[-1][1])))
    return greeting + "\n".join([*said, last_line]) + (f" ({markers})" if markers else "")


def _language(texts: Sequence[str]) -> Sequence[str]:
    """By the first text with more words of one language than of any other; English if there is none."""
    for text in texts:
        known = [len({*words.split()} & {*_plain(text)}) for *_, words in LANGUAGES]
        if known.count(max(known)) == 1:
            return LANGUAGES[known.index(max(known))]
    return LANGUAGES[0]


def _best(asked: list[str], facts: dict[str, list[str]]) -> str:
    """The fact that shares most words with what was asked, of equals the one that says them most; else ""."""
    return max(facts, key=lambda fact: (len({*asked} & {*facts[fact]}), sum(word in asked for word in facts[fact])))


@lru_cache(maxsize=256)
def _facts(system: str) -> dict[str, list[str]]:
    """Each line that informs customers -> its words, and those of the question that it answers."""
    facts, question = {"": list[str]()}, ""
    for raw in _FOR_THE_BOT.sub("", system).replace("\n  - ", ", ").replace(":, ", ": ").splitlines():
        line = raw.strip().removeprefix("- ").replace("; Price: ", ": ")
        if line and not line.startswith("#") and not line.endswith("?"):
            facts[shorten(f"{line.rstrip('.')}.", MAX_FACT_CHARACTERS)] = _words(f"{line} {question}")
        question = line if line.endswith("?") else ""
    return facts


def _plain(text: str) -> list[str]:
    """Lower-case words without accents."""
    return re.findall(r"[a-z0-9]+", re.sub(r"[\u0300-\u036f]", "", unicodedata.normalize("NFKD", text.lower())))


def _words(text: str) -> list[str]:
    """Topics and telling words, without the plural."""
    return [TOPIC_OF.get(word, word.removesuffix("s")) for word in _plain(text) if word not in FILLER]
