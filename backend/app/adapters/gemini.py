"""Gemini over REST (`generateContent`), and what each of its answers and errors means to us."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from app.core.circuit_breaker import (
    FAILED,
    IGNORED,
    CircuitBreaker,
    Verdict,
    default_classify,
    gemini_circuit_breaker,
)
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.deadline import Deadline
from app.core.errors import Overloaded
from app.core.http_client import GetClient, HttpError, PoolFull, Response, get_http_client, request
from app.core.resilience import ResiliencePolicy
from app.core.retry import is_unavailable
from app.domain.errors import ModelRefused, Unavailable
from app.domain.models import Generation, Prompt

logger = logging.getLogger(__name__)

DEPENDENCY = "gemini"
ATTEMPT_SECONDS = 15.0
PROBE_SECONDS = 5.0
MAX_OUTPUT_TOKENS = 1024
PER_DAY_RETRY_SECONDS = 3600.0
"""A daily quota comes back at midnight Pacific time: longer than any reply can wait, so it is handed over."""

REFUSALS = frozenset({"SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION"})
"""Finish reasons after which asking again gives the same. Unknown ones count only if there is no text."""

_SECONDS = re.compile(r"(\d+(?:\.\d+)?)s")
"""A protobuf Duration in JSON."""
_CODE = re.compile(r"[A-Z][A-Z0-9_]{1,62}")


class GeminiUnavailable(Unavailable):
    """`passing`: worth another attempt · `counts`: it would hit every other request as well."""

    def __init__(self, message: str, *, passing: bool, counts: bool = True, retry_after: float | None = None) -> None:
        super().__init__(DEPENDENCY, message, retry_after=retry_after)
        self.passing = passing
        self.counts = counts


class GeminiModel:
    """Implements `domain.ports.Model`."""

    def __init__(
        self,
        *,
        base_url: str,
        api_key: str,
        default_model: str,
        max_concurrent: int = 50,
        breaker: CircuitBreaker = gemini_circuit_breaker,
        get_client: GetClient = get_http_client,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._base_url = base_url
        self._headers = {"x-goog-api-key": api_key}
        self._default_model = default_model
        self._get_client = get_client
        self._breaker = breaker
        self._policy = ResiliencePolicy(
            DEPENDENCY,
            breaker=breaker,
            attempt_timeout_seconds=ATTEMPT_SECONDS,
            max_attempts=3,
            max_concurrent=max_concurrent,
            classify=_classify,
            retry_if=_may_repeat,
            clock=clock,
        )

    async def generate(self, prompt: Prompt, *, deadline: Deadline) -> Generation:
        model = prompt.model or self._default_model
        body = _request_body(prompt)
        for last in (False, True):
            answer = await self._policy.call(self._post, model, body, deadline=deadline)
            text, reason, refused = _read(answer)
            if refused:
                raise ModelRefused(reason)
            if text:
                return _generation(answer, text, reason, model)
            if reason == "MAX_TOKENS" or last:
                break
            logger.warning("empty answer, asking once more", extra={"finish_reason": reason})
        raise ModelRefused(reason or "EMPTY")

    def blocked_seconds(self) -> float:
        return self._breaker.blocked_seconds()

    def blocked_reason(self) -> str:
        return self._breaker.blocked_reason()

    async def probe(self) -> Mapping[str, Any]:
        """Is the API reachable, the key good, the default model alive? Past the breaker, costs no tokens.
        Raises `Unavailable`."""
        response = await self._exchange("GET", self._url(self._default_model), timeout_seconds=PROBE_SECONDS)
        error = _error(response)
        if response.status >= 500 or error:
            raise self._failure(response, error, self._default_model)
        return {}

    async def _post(self, model: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        url = f"{self._url(model)}:generateContent"
        response = await self._exchange("POST", url, timeout_seconds=ATTEMPT_SECONDS, payload=body)
        if response.status == 200:
            answer = _json_object(response)
            if answer is None:
                raise GeminiUnavailable("gemini: 200 with a body that is not JSON", passing=True)
            return answer
        error = _error(response)
        if response.status == 400 and _is_about_this_request(error):
            raise ModelRefused("INVALID_ARGUMENT")
        if response.status == 404 and model != self._default_model:
            raise ModelRefused(f"NOT_FOUND: {model}")
        raise self._failure(response, error, model)

    async def _exchange(self, method: str, url: str, *, timeout_seconds: float, payload: Any = None) -> Response:
        try:
            return await request(
                method,
                url,
                timeout_seconds=timeout_seconds,
                headers=self._headers,
                payload=payload,
                get_client=self._get_client,
            )
        except PoolFull as exc:
            raise Overloaded(DEPENDENCY, f"gemini: {exc}") from exc
        except HttpError as exc:
            # Asking twice costs tokens, not a customer's patience: an ambiguous failure is as good as a definite one.
            raise GeminiUnavailable(f"gemini: {exc}", passing=True) from exc

    def _url(self, model: str) -> str:
        return f"{self._base_url}/v1beta/models/{quote(model.removeprefix('models/'), safe='')}"

    def _failure(self, response: Response, error: Mapping[str, Any], model: str) -> GeminiUnavailable:
        """What makes Gemini unusable; the table is in the API's page on errors.

        429 counts only for the default model: quotas are per model, an account's own must not stop the others.
        """
        message = f"gemini: HTTP {response.status} {_word(error)}".rstrip()
        if response.status == 429:
            delay, per_day = _quota(error)
            if per_day:
                delay = max(delay or 0.0, PER_DAY_RETRY_SECONDS)
                message += " (daily quota)"
            counts = model == self._default_model
            return GeminiUnavailable(message, passing=not per_day, counts=counts, retry_after=delay)
        return GeminiUnavailable(message, passing=response.status >= 500)


def _request_body(prompt: Prompt) -> dict[str, Any]:
    config: dict[str, Any] = {
        # Thinking counts against the limit: with more of it a small limit yields no text at all.
        "maxOutputTokens": prompt.max_output_tokens or MAX_OUTPUT_TOKENS,
        "thinkingConfig": {"thinkingLevel": "MINIMAL"},
    }
    if prompt.temperature is not None:
        config["temperature"] = prompt.temperature
    return {
        "systemInstruction": {"parts": [{"text": prompt.system}]},
        "contents": [{"role": turn.role, "parts": [{"text": turn.text}]} for turn in prompt.turns],
        "generationConfig": config,
    }


def _read(answer: Mapping[str, Any]) -> tuple[str, str, bool]:
    """Text, finish or block reason, and whether it is a refusal. Nothing in an answer can be relied on to be there."""
    blocked = _object(answer.get("promptFeedback")).get("blockReason")
    if blocked:
        return "", str(blocked), True
    candidates = answer.get("candidates")
    candidate = _object(candidates[0]) if isinstance(candidates, list) and candidates else {}
    reason = str(candidate.get("finishReason") or "")
    if reason in REFUSALS:
        return "", reason, True
    parts = _object(candidate.get("content")).get("parts")
    texts = (_object(part) for part in parts) if isinstance(parts, list) else ()
    said = "".join(str(part["text"]) for part in texts if part.get("text") and not part.get("thought"))
    return said.strip(), reason, False


def _generation(answer: Mapping[str, Any], text: str, reason: str, model: str) -> Generation:
    usage = _object(answer.get("usageMetadata"))
    spent = [usage.get(name) for name in ("candidatesTokenCount", "thoughtsTokenCount")]
    known = [count for count in spent if isinstance(count, int)]
    asked = usage.get("promptTokenCount")
    return Generation(
        text=text,
        model=str(answer.get("modelVersion") or model),
        truncated=reason == "MAX_TOKENS",
        input_tokens=asked if isinstance(asked, int) else None,
        output_tokens=sum(known) if known else None,
    )


def _error(response: Response) -> Mapping[str, Any]:
    """The `error` object of a body, empty if there is none."""
    return _object((_json_object(response) or {}).get("error"))


def _details(error: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    details = error.get("details")
    return [_object(detail) for detail in details] if isinstance(details, list) else []


def _word(error: Mapping[str, Any]) -> str:
    """Google's code for it: the reason of an ErrorInfo (AIP-193), which says more than the status, or the status."""
    reasons = (str(detail.get("reason", "")) for detail in _details(error))
    return next(filter(_CODE.fullmatch, reasons), str(error.get("status", ""))[:40])


def _is_about_this_request(error: Mapping[str, Any]) -> bool:
    wrong_key = any(detail.get("reason") == "API_KEY_INVALID" for detail in _details(error))
    return error.get("status") == "INVALID_ARGUMENT" and not wrong_key


def _quota(error: Mapping[str, Any]) -> tuple[float | None, bool]:
    """The told delay in seconds, and whether a daily quota is used up."""
    delay: float | None = None
    per_day = False
    for detail in _details(error):
        told = _SECONDS.fullmatch(str(detail.get("retryDelay", "")))
        if told:
            delay = float(told[1])
        violations = detail.get("violations")
        for violation in violations if isinstance(violations, list) else ():
            per_day = per_day or "PerDay" in str(_object(violation).get("quotaId"))
    return delay, per_day


def _json_object(response: Response) -> Mapping[str, Any] | None:
    try:
        body = response.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _classify(exc: Exception) -> Verdict:
    if isinstance(exc, ModelRefused):
        return IGNORED
    if isinstance(exc, GeminiUnavailable):
        if not exc.counts:
            return IGNORED
        return Verdict(failed=True, hold_seconds=exc.retry_after) if exc.retry_after else FAILED
    return default_classify(exc)


def _may_repeat(exc: BaseException) -> bool:
    return exc.passing if isinstance(exc, GeminiUnavailable) else is_unavailable(exc)
