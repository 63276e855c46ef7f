"""The optional parameters of a request, and what each model does not take of them.

A model may refuse with 400 INVALID_ARGUMENT what another one wants: a thinking level, `thinkingConfig` as such, a
temperature, a longer answer than it can give, a system instruction, functions. Then the request goes out again without
it, or with the lowest thinking level that the complaint names, and the model is asked that way for a day. What a
complaint looks like is not documented: Google's sentences name the parameter as `thinking_level`, "Thinking level",
`thinkingConfig` or "Function calling".
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from app.core.clock import SYSTEM_CLOCK, Clock
from app.domain.models import Attachment, Function, Json, Prompt, Turn

MAX_OUTPUT_TOKENS = 1024
"""Of an answer, where the profile says nothing."""
THINKING_ROOM_TOKENS = 4096
"""Thinking counts against the limit: a model that cannot be told to think little would have none left for the text.
Added to what the profile allows for the answer."""
FILES_ROOM_TOKENS = 3072
"""For what files say, beside the answer: ten minutes of speech, or some sentences on each of ten pictures."""
FILES_PROPERTIES: Mapping[str, object] = {
    "files": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {"file": {"type": "integer"}, "content": {"type": "string"}},
            "required": ["file", "content"],
        },
    },
    "reply": {"type": "string"},
}
FILES_SCHEMA: Mapping[str, object] = {"type": "object", "required": ["files", "reply"]}
"""As `domain.prompt.FILES_SECTION` asks for it in words. In the same call as the reply."""
LEVELS = ("MINIMAL", "LOW", "MEDIUM", "HIGH")
REMEMBER_SECONDS = 86_400.0
MAX_MODELS = 1000

_NAMES = {
    "thinkingConfig": ("thinking",),
    "temperature": ("temperature",),
    "maxOutputTokens": ("maxoutputtokens", "maximumoutputtokens"),
    "systemInstruction": ("systeminstruction", "developerinstruction"),
    "tools": ("functioncall", "functiondeclaration", "tooluse", "tools"),
    "responseJsonSchema": (
        "responsejsonschema",
        "responseschema",
        "responsemimetype",
        "jsonmode",
        "controlledgeneration",
    ),
}
"""How a complaint may name a parameter, without case, spaces and underscores."""


@dataclass(frozen=True, slots=True)
class Refused:
    """What one model does not take."""

    names: frozenset[str] = frozenset()
    levels: frozenset[str] = frozenset()
    level: str = LEVELS[0]
    """The thinking level to ask for, unless `names` has `thinkingConfig`."""


NOTHING_REFUSED = Refused()


class ModelParameters:
    """Per process: at most `MAX_MODELS` models, each for `REMEMBER_SECONDS` after its last complaint."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._known: OrderedDict[str, tuple[Refused, float]] = OrderedDict()

    def body(self, model: str, prompt: Prompt) -> dict[str, Any]:
        """The request as `model` takes it."""
        refused = self.refused(model)
        contents = [{"role": turn.role, "parts": _parts(turn)} for turn in prompt.turns]
        body: dict[str, Any] = {"contents": contents, "generationConfig": _config(refused, prompt)}
        if prompt.functions and not prompt.files and "tools" not in refused.names:
            body["tools"] = _tools(prompt.functions)
        instruction = {"parts": [{"text": prompt.system}]}
        if "systemInstruction" not in refused.names:
            return {"systemInstruction": instruction, **body}
        contents[0] = {"role": contents[0]["role"], "parts": [*instruction["parts"], *contents[0]["parts"]]}
        return body

    def refused(self, model: str) -> Refused:
        refused, until = self._known.get(model, (NOTHING_REFUSED, 0.0))
        return refused if self._clock.monotonic() < until else NOTHING_REFUSED

    def learn(self, model: str, body: Mapping[str, object], complaint: str) -> bool:
        """Is `complaint` about an optional parameter of `body`? Then the next `body()` is another one."""
        known = self.refused(model)
        told = _told(known, body, complaint)
        if told == known:
            return False
        self._known[model] = told, self._clock.monotonic() + REMEMBER_SECONDS
        self._known.move_to_end(model)
        if len(self._known) > MAX_MODELS:
            self._known.popitem(last=False)
        return True


def _tools(functions: tuple[Function, ...]) -> list[dict[str, object]]:
    declarations = [
        {"name": function.name, "description": function.description, "parameters": function.parameters}
        for function in functions
    ]
    return [{"functionDeclarations": declarations}]


def _parts(turn: Turn) -> list[dict[str, Any]]:
    return [
        {"inlineData": {"mimeType": part.mime, "data": orjson.Fragment(b'"' + part.content + b'"')}}
        if isinstance(part, Attachment)
        else {"text": part}
        for part in turn.parts or (turn.text,)
    ]


def _schema(functions: tuple[Function, ...]) -> dict[str, object]:
    """With files a function is a part of the JSON: not every model takes functions and a schema together."""
    calls = {function.name: {**function.parameters, "description": function.description} for function in functions}
    return {**FILES_SCHEMA, "properties": {**FILES_PROPERTIES, **calls}}


def _config(refused: Refused, prompt: Prompt) -> dict[str, object]:
    thinks_little = "thinkingConfig" not in refused.names and refused.level == LEVELS[0]
    limit = None if "maxOutputTokens" in refused.names else prompt.max_output_tokens
    room = 0 if thinks_little else THINKING_ROOM_TOKENS
    if prompt.files:
        room += FILES_ROOM_TOKENS
    config: dict[str, object] = {"maxOutputTokens": (limit or MAX_OUTPUT_TOKENS) + room}
    if prompt.files and "responseJsonSchema" not in refused.names:
        config |= {"responseMimeType": "application/json", "responseJsonSchema": _schema(prompt.functions)}
    if "thinkingConfig" not in refused.names:
        config["thinkingConfig"] = {"thinkingLevel": refused.level}
    if prompt.temperature is not None and "temperature" not in refused.names:
        config["temperature"] = prompt.temperature
    return config


def _told(known: Refused, body: Json, complaint: str) -> Refused:
    squeezed = re.sub(r"[^a-z]", "", complaint.lower())
    levels = {level for level in LEVELS if re.search(rf"(?<![a-z]){level}(?![a-z])", complaint, re.IGNORECASE)}
    sent = {*body["generationConfig"], *body}
    named = {name for name, spellings in _NAMES.items() if any(spelling in squeezed for spelling in spellings)} & sent
    if not named and known.level in levels and "thinkingConfig" in sent:
        named = {"thinkingConfig"}
    if "thinkingConfig" in named:
        refused_levels = known.levels | {known.level}
        others = [level for level in LEVELS if level in levels - refused_levels]
        if others:
            named -= {"thinkingConfig"}
            known = replace(known, levels=refused_levels, level=others[0])
    return replace(known, names=known.names | named)
