"""What Gemini's answers and error bodies say. Nothing in them can be relied on to be there, or to be of its type."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.core import tolerant_json
from app.domain.models import FunctionCall, Json

REFUSALS = frozenset({
    "SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION",
    "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION",
})  # fmt: skip
"""Finish reasons after which asking again gives the same. Unknown ones count only if there is no text."""

_HTTP_STATUS = {
    "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "OUT_OF_RANGE": 400, "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403, "NOT_FOUND": 404, "ABORTED": 409, "ALREADY_EXISTS": 409, "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499, "UNKNOWN": 500, "INTERNAL": 500, "DATA_LOSS": 500, "UNIMPLEMENTED": 501, "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}  # fmt: skip
"""google.rpc.Code to HTTP (googleapis, google/rpc/code.proto)."""

_SECONDS = re.compile(r"(\d+(?:\.\d+)?)s")
"""A protobuf Duration in JSON."""
_CODE_WORD = re.compile(r"[A-Z][A-Z0-9_]{1,60}")
"""Google's names of states and reasons. What looks otherwise is free text, which may quote a customer."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """`text`, possibly empty; `reason`: why it ended, or why there is none; `refused`: asking again is useless;
    `calls`: the functions that it asks for."""

    text: str
    reason: str
    refused: bool = False
    calls: tuple[FunctionCall, ...] = ()

    @property
    def is_something(self) -> bool:
        return bool(self.text or self.calls)


@dataclass(frozen=True, slots=True)
class ApiError:
    """An `error` object. `status`: the HTTP status it stands for. `words`: that, and Google's own name of the reason;
    `complaint`: its free text, which is never logged."""

    status: int
    name: str
    reason: str
    complaint: str
    details: tuple[Json, ...] = ()

    @property
    def words(self) -> str:
        return f"HTTP {self.status} {self.reason or self.name}".rstrip()

    @property
    def is_about_the_request(self) -> bool:
        """Malformed, or with a parameter this model does not take; the key is all right."""
        return self.status == 400 and self.name == "INVALID_ARGUMENT" and not self.reason.startswith("API_KEY")

    def quota(self) -> tuple[float | None, bool]:
        """The told delay in seconds, and whether a daily quota is used up."""
        delay: float | None = None
        per_day = "perday" in re.sub(r"\W", "", self.complaint).lower()
        for detail in self.details:
            told = _SECONDS.fullmatch(str(detail.get("retryDelay", "")))
            if told:
                delay = float(told[1])
            violations = detail.get("violations")
            for violation in violations if isinstance(violations, list) else ():
                per_day = per_day or "PerDay" in str(as_object(violation).get("quotaId"))
        return delay, per_day


def parse(body: bytes) -> Mapping[str, object] | None:
    """The JSON object of a body, `None` if it is not JSON; what is no character in it becomes U+FFFD. Of an array (as
    streaming methods answer) the element that tells of an error, else the only one."""
    try:
        value = tolerant_json.loads(body)
    except ValueError:
        return None
    if isinstance(value, list):
        objects = [as_object(item) for item in value]
        value = next((item for item in objects if "error" in item), objects[0] if len(objects) == 1 else None)
    return value if isinstance(value, dict) else None


def read_error(http_status: int, answer: Mapping[str, object] | None) -> ApiError | None:
    """The error of an answer, whatever its HTTP status was: a 200 with an `error` object is no success."""
    told = (answer or {}).get("error")
    if http_status < 400 and told in (None, {}, [], "", False):
        return None
    error = as_object(told)
    details = error.get("details")
    objects = tuple(as_object(detail) for detail in details) if isinstance(details, list) else ()
    name = _code_word(error.get("status"))
    return ApiError(
        status=http_status if http_status >= 400 else _told_status(error.get("code"), name),
        name=name,
        reason=next((word for detail in objects if (word := _code_word(detail.get("reason")))), ""),
        complaint=" ".join(_free_texts(told, error, objects)),
        details=objects,
    )


def read_answer(answer: Mapping[str, object], functions: frozenset[str] = frozenset()) -> Spoken:
    """What was said, and which of these functions it asks for: of several candidates the first that ended well, else
    the first with any text or call."""
    candidates = answer.get("candidates")
    spoken = [_candidate(as_object(item), functions) for item in candidates] if isinstance(candidates, list) else []
    usable = [one for one in spoken if one.is_something]
    if usable:
        return next((one for one in usable if one.reason != "MAX_TOKENS"), usable[0])
    blocked = as_object(answer.get("promptFeedback")).get("blockReason")
    if blocked:
        return Spoken("", _code_word(blocked) or "BLOCKED", refused=True)
    return next((one for one in spoken if one.refused), spoken[0] if spoken else Spoken("", ""))


_OBJECT = re.compile(r"\{.*\}", re.DOTALL)
_CUT_REPLY = re.compile(r'"reply"\s*:\s*"((?:[^"\\]|\\.)*)', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Seen:
    """What was said about files, by their numbers; the reply; and what it asks for as functions."""

    contents: dict[int, str]
    reply: str
    calls: tuple[FunctionCall, ...] = ()


def read_files(text: str, functions: Sequence[str] = ()) -> Seen | None:
    """Of JSON as it was asked for, also in a code fence or cut off within the reply. A text that is no JSON is the
    reply. `None`: JSON without a reply and without a call."""
    found = _OBJECT.search(text)
    try:
        told = as_object(tolerant_json.loads(found[0].encode())) if found else {}
    except ValueError:
        told = {}
    reply = told.get("reply")
    reply = reply.strip() if isinstance(reply, str) else ""
    calls = tuple(FunctionCall(name, told[name]) for name in functions if isinstance(told.get(name), dict))
    if reply or calls:
        files = told.get("files")
        entries = [as_object(entry) for entry in files] if isinstance(files, list) else []
        return Seen({entry["file"]: words for entry in entries if (words := _content(entry))}, reply, calls)
    if not text.lstrip("` \n").removeprefix("json").lstrip().startswith("{"):
        return Seen({}, text)
    if cut := _CUT_REPLY.search(text):
        try:
            words = str(tolerant_json.loads(f'"{cut[1]}"'.encode())).strip()
        except ValueError:
            words = ""
        return Seen({}, words) if words else None
    return None


def _content(entry: Json) -> str:
    content = entry.get("content")
    return content.strip() if isinstance(entry.get("file"), int) and isinstance(content, str) else ""


def as_object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _candidate(candidate: Json, functions: frozenset[str]) -> Spoken:
    reason = _code_word(candidate.get("finishReason"))
    if reason in REFUSALS:
        return Spoken("", reason, refused=True)
    parts = as_object(candidate.get("content")).get("parts")
    told = [as_object(part) for part in parts] if isinstance(parts, list) else []
    said = "".join(part["text"] for part in told if isinstance(part.get("text"), str) and not part.get("thought"))
    asked = (as_object(part.get("functionCall")) for part in told)
    calls = tuple(
        FunctionCall(str(call["name"]), as_object(call.get("args"))) for call in asked if call.get("name") in functions
    )
    return Spoken(said.replace("\0", "\ufffd").strip(), reason, calls=calls)


def _told_status(code: object, name: str) -> int:
    if isinstance(code, str) and code.isdecimal():
        code = int(code)
    if isinstance(code, int) and 400 <= code <= 599:
        return code
    return _HTTP_STATUS.get(name, 500)


def _code_word(value: object) -> str:
    return value if isinstance(value, str) and _CODE_WORD.fullmatch(value) else ""


def _free_texts(told: object, error: Mapping[str, object], details: tuple[Mapping[str, object], ...]) -> list[str]:
    texts = [told, error.get("message")]
    for detail in details:
        violations = detail.get("fieldViolations")
        for violation in violations if isinstance(violations, list) else ():
            texts += [as_object(violation).get("field"), as_object(violation).get("description")]
    return [text for text in texts if isinstance(text, str)]
