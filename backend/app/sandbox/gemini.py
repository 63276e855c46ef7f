"""The stand-in for Gemini's generateContent: validates like the real one and answers from the profile it is given."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.sandbox.exchange import Answer, BodyTooLarge, answer, false_answer, read_body
from app.sandbox.faults import Call, Fault
from app.sandbox.gemini_errors import ANSWERS, BROKEN, ERRORS
from app.sandbox.gemini_functions import Declaration, call_of, declared_in, read_declarations
from app.sandbox.gemini_reply import compose
from app.sandbox.hearing import Ear, Heard, Unheard, as_json, asked_with
from app.sandbox.state import SandboxState
from app.sandbox.webhooks import JsonObject

MAX_BODY_BYTES = 20 * 1024 * 1024
CHARACTERS_PER_TOKEN = 4
_THOUGHT_TOKENS = {"MINIMAL": 0, "LOW": 64, "MEDIUM": 256, "HIGH": 1024}
_REQUEST_FIELDS = frozenset({
    "systemInstruction", "contents", "generationConfig", "safetySettings", "tools", "toolConfig", "cachedContent",
    "labels",
})  # fmt: skip


class Invalid(Exception):
    """400 INVALID_ARGUMENT; the text says why."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request that was read. Turns are (role, text)."""

    system: str
    turns: tuple[tuple[str, str], ...]
    max_output_tokens: int | None
    thought_tokens: int
    heard: tuple[Heard, ...] = ()
    """The files of the last turn."""
    wants_json: bool = False
    parameters: frozenset[str] = field(default=frozenset(), compare=False)
    """Names of the optional ones that were sent, and "thinkingLevel MINIMAL" for a level."""
    functions: tuple[Declaration, ...] = ()


class Gemini:
    def __init__(self, state: SandboxState) -> None:
        self._state = state

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1beta/models/{method}", self.generate, methods=["POST"]),
            Route("/v1beta/models/{model}", self.look_up, methods=["GET"]),
        ]

    async def look_up(self, request: Request) -> Response:
        """`models.get`. No rule applies and nothing is recorded: it is not asked for on any customer's behalf."""
        model = request.path_params["model"]
        refused = self._refused(request.headers.get("x-goog-api-key", ""), model)
        return (refused or Answer.json(200, {"name": f"models/{model}"})).response()

    async def generate(self, request: Request) -> Response:
        model, _, method = request.path_params["method"].partition(":")
        if method != "generateContent":
            return _error("not_found", f"The sandbox has no method {method or '(none)'}.").response()
        try:
            raw = await read_body(request, MAX_BODY_BYTES)
        except BodyTooLarge:
            return _error("invalid_argument", "Request payload size exceeds the limit.").response()
        key = request.headers.get("x-goog-api-key", "")
        question, problem = _parsed(raw, self._state.ear)
        # The record and the rules keep apart who asks: a customer's answer is longer than one token.
        kind = "probe" if question is not None and question.max_output_tokens == 1 else "generate"
        call = Call(kind, api_key=key, model=model)
        if question is not None:
            conversation = "\n".join(text for _, text in question.turns)
            call = replace(call, text=question.turns[-1][1], system=question.system, conversation=conversation)
        entry = self._state.record.open(kind, raw, model=model, text=call.text)

        def process(fault: Fault | None) -> Answer:
            told = _told(fault, model, question)
            if told is not None:
                return told
            refused = self._refused(key, model)
            if refused is not None:
                return refused
            if question is None:
                return _error("invalid_argument", problem)
            return Answer.json(200, _generated(model, question, raw), processed=True)

        fault = self._state.faults.pick("gemini", call, counted=kind != "probe")
        if fault is None and kind != "probe":
            await asyncio.sleep(self._state.behaviour.model_seconds * random.uniform(0.5, 1))
        return await answer(request, self._state.record, entry, fault, process)

    def _refused(self, key: str, model: str) -> Answer | None:
        config = self._state.config
        if not key:
            return _error("unregistered_caller")
        if config.gemini_api_keys and key not in config.gemini_api_keys:
            return _error("api_key_invalid")
        if model not in config.gemini_models:
            return _error(
                "not_found",
                f"models/{model} is not found for API version v1beta, or is not supported for generateContent.",
            )
        return None


def read_question(payload: object, ear: Ear | None = None) -> Question:
    """Raises `Invalid`."""
    if not isinstance(payload, Mapping):
        raise Invalid("Invalid JSON payload received.")
    unknown = payload.keys() - _REQUEST_FIELDS
    if unknown:
        raise Invalid(f'Invalid JSON payload received. Unknown name "{min(unknown)}": Cannot find field.')
    turns, heard = _turns(payload.get("contents"), ear or Ear())
    config = payload.get("generationConfig") or {}
    if not isinstance(config, Mapping):
        raise Invalid("generationConfig must be an object.")
    for penalty in ("presencePenalty", "frequencyPenalty"):
        if penalty in config:
            raise Invalid(f"{penalty} is not supported for this model.")
    limit = config.get("maxOutputTokens")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise Invalid("maxOutputTokens must be positive.")
    system = _text(payload.get("systemInstruction"), "systemInstruction") if payload.get("systemInstruction") else ""
    thinking = config.get("thinkingConfig") or {}
    thoughts = _thought_tokens(thinking)
    parameters = frozenset({*config, *payload, f"thinkingLevel {thinking.get('thinkingLevel')}"})
    try:
        functions = read_declarations(payload.get("tools")) or declared_in(config.get("responseJsonSchema"))
    except ValueError as exc:
        raise Invalid(str(exc)) from exc
    wants_json = config.get("responseMimeType") == "application/json"
    return Question(system, turns, limit, thoughts, heard, wants_json, parameters, functions)


def _turns(contents: object, ear: Ear) -> tuple[tuple[tuple[str, str], ...], tuple[Heard, ...]]:
    if not isinstance(contents, list) or not contents:
        raise Invalid("contents is not specified")
    files = [_files(content, ear) for content in contents]
    turns = tuple((_role(content), _text(content, "contents")) for content in contents)
    if turns[0][0] != "user":
        raise Invalid("Please ensure that multiturn requests start with a user turn.")
    if turns[-1][0] != "user":
        raise Invalid("Please ensure that multiturn requests end with a user turn.")
    return turns, files[-1]


def _files(content: object, ear: Ear) -> tuple[Heard, ...]:
    parts = content.get("parts") if isinstance(content, Mapping) else None
    listed = parts if isinstance(parts, list) else []
    inline = [part["inlineData"] for part in listed if isinstance(part, Mapping) and "inlineData" in part]
    try:
        return tuple(ear.hear(each) for each in inline)
    except Unheard as exc:
        raise Invalid(str(exc)) from None


def _role(content: object) -> str:
    role = content.get("role", "user") if isinstance(content, Mapping) else None
    if role not in ("user", "model"):
        raise Invalid("Please use a valid role: user, model.")
    return str(role)


def _text(content: object, where: str) -> str:
    parts = content.get("parts") if isinstance(content, Mapping) else None
    if not isinstance(parts, list) or not parts:
        raise Invalid(f"{where}.parts must not be empty.")
    parts = [part for part in parts if not (isinstance(part, Mapping) and "inlineData" in part)]
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in parts]
    if not all(isinstance(text, str) for text in texts) or not any(texts):
        raise Invalid(f"{where}.parts must have one initialized field: the sandbox reads text.")
    return "\n".join(str(text) for text in texts)


def _thought_tokens(thinking: object) -> int:
    """What thinking costs before the first word; it counts against `maxOutputTokens`."""
    if not isinstance(thinking, Mapping):
        raise Invalid("thinkingConfig must be an object.")
    if "thinkingLevel" in thinking and "thinkingBudget" in thinking:
        raise Invalid("You can only set only one of thinking budget and thinking level.")
    level = thinking.get("thinkingLevel", "LOW")
    if level not in _THOUGHT_TOKENS:
        raise Invalid(f"Invalid value at 'generation_config.thinking_config.thinking_level': {level!r}.")
    budget = thinking.get("thinkingBudget")
    return int(budget) if isinstance(budget, int) and budget >= 0 else _THOUGHT_TOKENS[level]


def _generated(model: str, question: Question, raw: bytes) -> JsonObject:
    call = call_of(question.functions, asked_with(question.turns[-1][1], question.heard))
    if call is not None and not question.heard:
        return _answered([{"functionCall": call}], "STOP", model, question, raw, str(call))
    text = _said(question, call)
    reason = "STOP"
    if question.max_output_tokens is not None:
        room = max(0, question.max_output_tokens - question.thought_tokens) * CHARACTERS_PER_TOKEN
        if len(text) > room:
            text, reason = text[:room], "MAX_TOKENS"
    return _answered([{"text": text}] if text else [], reason, model, question, raw, text)


def _answered(
    parts: list[JsonObject], reason: str, model: str, question: Question, raw: bytes, text: str
) -> JsonObject:
    """`text`: what the tokens are counted of."""
    content: JsonObject = {"role": "model"} | ({"parts": parts} if parts else {})
    candidate = {"content": content, "finishReason": reason, "index": 0}
    digest = hashlib.sha256(model.encode() + b"\0" + raw).hexdigest()[:22]
    return _with_usage({"candidates": [candidate]}, model, question, text) | {"responseId": digest}


def _said(question: Question, call: JsonObject | None) -> str:
    if not question.heard:
        return compose(question.system, question.turns)
    role, asked = question.turns[-1]
    reply = compose(question.system, (*question.turns[:-1], (role, asked_with(asked, question.heard))))
    return as_json(question.heard, reply, call) if question.wants_json else reply


def _with_usage(answer: JsonObject, model: str, question: Question | None, text: str) -> JsonObject:
    asked = sum(len(words) for _, words in question.turns) + len(question.system) if question else 0
    thoughts = question.thought_tokens if question else 0
    counts = {"promptTokenCount": _tokens(asked), "candidatesTokenCount": _tokens(text), "thoughtsTokenCount": thoughts}
    total = sum(counts.values())
    return answer | {"usageMetadata": counts | {"totalTokenCount": total}, "modelVersion": model}


def _tokens(text: str | int) -> int:
    return -(-(text if isinstance(text, int) else len(text)) // CHARACTERS_PER_TOKEN)


def _parsed(raw: bytes, ear: Ear) -> tuple[Question | None, str]:
    try:
        return read_question(orjson.loads(raw), ear), ""
    except orjson.JSONDecodeError:
        return None, "Invalid JSON payload received."
    except Invalid as exc:
        return None, str(exc)


def _error(name: str, message: str | None = None) -> Answer:
    error = ERRORS[name]
    return Answer.json(error.http_status, error.body(message=message), code=name)


def _told(fault: Fault | None, model: str, question: Question | None) -> Answer | None:
    if fault is None:
        return None
    spec = fault.spec
    name = spec.gemini
    if name == "reply":
        candidate = {"content": {"role": "model", "parts": [{"text": spec.text}]}, "finishReason": "STOP", "index": 0}
        said = _with_usage({"candidates": [candidate]}, model, question, spec.text or "")
        return Answer.json(200, said, processed=True, code=name)
    if name in ANSWERS:
        body = orjson.dumps(_with_usage(ANSWERS[name], model, question, ""))
        for placeholder, broken in BROKEN.items():
            body = body.replace(placeholder, broken)
        return Answer(200, body, processed=True, code=name)
    error = ERRORS[name] if name else None
    if error is None:
        return false_answer(spec, None, name)
    if error.parameter and (question is None or error.parameter not in question.parameters):
        return None
    told: object = error.body(model=model, retry_delay=spec.retry_delay)
    status = 200 if spec.with_status_200 else error.http_status
    return false_answer(spec, (status, [told] if spec.in_array else told), name)
