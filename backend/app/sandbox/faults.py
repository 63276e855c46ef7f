"""Rules that make the stand-ins misbehave. They are set over HTTP while the sandbox runs; the first that fires wins."""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.core.clock import SYSTEM_CLOCK, Clock
from app.sandbox.gemini_errors import ANSWERS, ERRORS
from app.sandbox.whatsapp_errors import whatsapp_error

MAX_RULES = 1000
MAX_HANG_SECONDS = 600.0

Target = Literal["whatsapp", "gemini", "webhook"]
Action = Literal["refuse", "drop_before", "drop_after", "hang_before", "hang_after"]


class Match(BaseModel):
    """All that is given must hold; nothing given matches every request of the target."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operation: (
        Literal[
            "send",
            "read",
            "media",
            "download",
            "upload",
            "number",
            "debug_token",
            "subscribed_apps",
            "generate",
            "probe",
            "webhook",
        ]
        | None
    ) = None
    phone_number_id: str | None = None
    recipient: str | None = None
    """Digits, with or without "+", or a business-scoped user id."""
    api_key: str | None = None
    model: str | None = None
    text_contains: str | None = None
    """In the text sent, or in the last user turn; upper and lower case are the same."""
    conversation_contains: str | None = None
    """In any turn, the last one included."""
    system_contains: str | None = None
    """In Gemini's system instruction: the business name singles out one account."""

    def accepts(self, call: Call) -> bool:
        exact = ("operation", "phone_number_id", "api_key", "model")
        contained = (
            (self.text_contains, call.text),
            (self.conversation_contains, call.conversation),
            (self.system_contains, call.system),
        )
        return (
            all(getattr(self, name) in (None, getattr(call, name)) for name in exact)
            and (self.recipient is None or self.recipient.lstrip("+") == call.recipient)
            and all(words is None or words.casefold() in (where or "").casefold() for words, where in contained)
        )


@dataclass(frozen=True, slots=True)
class Call:
    """What a rule can see of a request. `recipient` without "+"."""

    operation: str
    phone_number_id: str | None = None
    recipient: str | None = None
    api_key: str | None = None
    model: str | None = None
    text: str | None = None
    system: str | None = None
    conversation: str | None = None


class FaultSpec(BaseModel):
    """A delay, and at most one of `action`, `error`, `gemini`, `http_status`, `failed_status`, `file`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Target
    match: Match = Match()

    latency_ms: float = Field(default=0, ge=0, le=600_000)
    """Before the request is processed, which then happens whether or not the caller still waits."""
    jitter_ms: float = Field(default=0, ge=0, le=600_000)
    """Up to this much more, drawn evenly."""
    action: Action | None = None
    hang_seconds: float | None = Field(default=None, gt=0, le=MAX_HANG_SECONDS)
    """How long `hang_*` holds; without it until the rule is deleted, at most `MAX_HANG_SECONDS`."""
    error: str | None = None
    """A code of the Cloud API's table."""
    failed_status: str | None = None
    """Accept the send, then report it as `failed` with this code."""
    gemini: str | None = None
    """A name of Gemini's tables: an error, or an answer without usable text."""
    retry_delay: str = Field(default="42s", pattern=r"^\d+(\.\d+)?s$")
    text: str | None = None
    """What `gemini: "reply"` answers."""
    with_status_200: bool = False
    """The error of `gemini` comes with HTTP 200, as from a gateway or a stream."""
    in_array: bool = False
    """The error of `gemini` is the only element of an array, as from a streaming method."""
    http_status: int | None = Field(default=None, ge=400, le=599)
    body: str = Field(default="<html><body>upstream error</body></html>", max_length=100_000)
    """Sent with `http_status`, as text: what a proxy in between answers."""
    retry_after: int | None = Field(default=None, ge=0)
    """Seconds, as a Retry-After header on an answer of this rule."""

    file: Literal["cut", "stall", "wrong_bytes", "too_long", "redirect"] | None = None
    """What becomes of a customer's file on its way to us: it ends half-way with the connection, or just stops there;
    other bytes, more bytes, or the way to another host."""

    rate: float = Field(default=1.0, gt=0, le=1)
    count: int | None = Field(default=None, ge=1)
    """Fire this often, then never again."""
    for_seconds: float | None = Field(default=None, gt=0, le=86_400)
    """Counted from when the rule is added; then it never fires again, and lets go of what it holds."""
    skip: int = Field(default=0, ge=0)
    """Let this many matching requests pass first."""
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        effects = ("action", "error", "failed_status", "gemini", "http_status", "file")
        given = [name for name in effects if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other")
        if not given and not self.latency_ms and not self.jitter_ms:
            raise ValueError(f"nothing to do: give latency_ms or one of {', '.join(effects)}")
        only = {"error": "whatsapp", "failed_status": "whatsapp", "gemini": "gemini", "file": "whatsapp"}
        if given and only.get(given[0], self.target) != self.target:
            raise ValueError(f"{given[0]} does not apply to {self.target}")
        if self.target == "webhook" and given and self.action not in ("drop_before", "drop_after"):
            raise ValueError("webhook takes latency_ms, drop_before and drop_after")
        if self.file and self.match.operation != "download":
            raise ValueError("file needs a match with operation download")
        if self.hang_seconds and self.file != "stall" and (self.action or "")[:4] != "hang":
            raise ValueError("hang_seconds needs action hang_before or hang_after, or file stall")
        self._check_names()
        return self

    def _check_names(self) -> None:
        for code in filter(None, (self.error, self.failed_status)):
            try:
                whatsapp_error(code)
            except KeyError:
                raise ValueError(f"{code} is not a Cloud API error code") from None
        if self.gemini and self.gemini not in ERRORS and self.gemini not in ANSWERS:
            raise ValueError(f"gemini takes one of {', '.join([*ERRORS, *ANSWERS])}")
        if (self.gemini == "reply") != (self.text is not None):
            raise ValueError('text belongs to gemini "reply"')
        if (self.with_status_200 or self.in_array) and self.gemini not in ERRORS:
            raise ValueError("with_status_200 and in_array belong to an error of gemini")


class Fault:
    """A rule at work: how many requests it has seen and on how many it fired."""

    def __init__(self, fault_id: int, spec: FaultSpec, clock: Clock = SYSTEM_CLOCK) -> None:
        self.id = fault_id
        self.spec = spec
        self._clock = clock
        self._added_at = clock.monotonic()
        self.matched = 0
        self.fired = 0
        self.released = asyncio.Event()
        self._random = random.Random(spec.seed)

    def fires_on(self, call: Call, *, counted: bool) -> bool:
        spec = self.spec
        if not spec.match.accepts(call):
            return False
        if not counted and spec.match.operation is None:
            return self.matched >= spec.skip and not self.is_over
        self.matched += 1
        if self.matched <= spec.skip or self.is_over:
            return False
        if spec.rate < 1 and self._random.random() >= spec.rate:
            return False
        self.fired += 1
        return True

    @property
    def is_over(self) -> bool:
        """It has fired as often, or lasted as long, as it should: it never fires again."""
        worn_out = self.spec.count is not None and self.fired >= self.spec.count
        return worn_out or self.seconds_left() <= 0

    def seconds_left(self) -> float:
        """Until `for_seconds` have passed; infinite for a rule without an end."""
        if self.spec.for_seconds is None:
            return math.inf
        return self._added_at + self.spec.for_seconds - self._clock.monotonic()

    def hang_seconds(self) -> float:
        """How long `hang_*` holds a request from now on."""
        return min(self.spec.hang_seconds or MAX_HANG_SECONDS, max(0.0, self.seconds_left()))

    def delay_seconds(self) -> float:
        jitter = self._random.random() * self.spec.jitter_ms if self.spec.jitter_ms else 0.0
        return (self.spec.latency_ms + jitter) / 1000

    def to_json(self) -> dict[str, object]:
        spec = self.spec.model_dump(exclude_defaults=True)
        seen = {"matched": self.matched, "fired": self.fired, "is_over": self.is_over}
        return {"id": self.id, **spec, "target": self.spec.target, **seen}


class TooManyFaults(Exception):
    """More than `MAX_RULES` at once."""


class Faults:
    """The rules in the order they were added."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._faults: dict[int, Fault] = {}
        self._last_id = 0

    def add(self, spec: FaultSpec) -> Fault:
        if len(self._faults) >= MAX_RULES:
            raise TooManyFaults
        self._last_id += 1
        fault = self._faults[self._last_id] = Fault(self._last_id, spec, self._clock)
        return fault

    def pick(self, target: Target, call: Call, *, counted: bool = True) -> Fault | None:
        """The first rule that fires. A rule that is exhausted or passes this time leaves the request to the next. What
        is not `counted` uses up nothing of a rule that does not name its operation."""
        for fault in self._faults.values():
            if fault.spec.target == target and fault.fires_on(call, counted=counted):
                return fault
        return None

    def get(self, fault_id: int) -> Fault | None:
        return self._faults.get(fault_id)

    def all(self) -> list[Fault]:
        return list(self._faults.values())

    def remove(self, fault_id: int) -> bool:
        """Whatever it holds goes on."""
        fault = self._faults.pop(fault_id, None)
        if fault is not None:
            fault.released.set()
        return fault is not None

    def clear(self) -> None:
        for fault_id in list(self._faults):
            self.remove(fault_id)
