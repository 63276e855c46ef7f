"""Gemini's refusals by name: the error bodies of `google.rpc`, and the 200s that carry no usable text."""

from __future__ import annotations

from dataclasses import dataclass

from app.sandbox.webhooks import JsonObject

_TYPE = "type.googleapis.com/google.rpc."
_SERVICE = "generativelanguage.googleapis.com"


@dataclass(frozen=True, slots=True)
class GeminiError:
    http_status: int
    status: str
    message: str
    reason: str | None = None
    """`ErrorInfo.reason`."""
    quota_id: str | None = None
    """`QuotaFailure.violations[].quotaId`; says whether a minute or a day is used up."""
    parameter: str | None = None
    """Only a request with this parameter, or with this value of it, gets the error (`Question.parameters`)."""

    def body(self, *, message: str | None = None, model: str = "", retry_delay: str | None = None) -> JsonObject:
        error = {"code": self.http_status, "message": message or self.message, "status": self.status}
        details = self._details(model, retry_delay)
        return {"error": error | ({"details": details} if details else {})}

    def _details(self, model: str, retry_delay: str | None) -> list[JsonObject]:
        if self.reason:
            info = {"reason": self.reason, "domain": "googleapis.com", "metadata": {"service": _SERVICE}}
            return [
                {"@type": f"{_TYPE}ErrorInfo", **info},
                {"@type": f"{_TYPE}LocalizedMessage", "locale": "en-US", "message": self.message},
            ]
        if self.quota_id is None:
            return []
        violation = {
            "quotaMetric": f"{_SERVICE}/generate_content_free_tier_requests",
            "quotaId": self.quota_id,
            "quotaDimensions": {"location": "global", "model": model},
            "quotaValue": "20",
        }
        link = {
            "description": "Learn more about Gemini API quotas",
            "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
        }
        return [
            {"@type": f"{_TYPE}QuotaFailure", "violations": [violation]},
            {"@type": f"{_TYPE}Help", "links": [link]},
            {"@type": f"{_TYPE}RetryInfo", "retryDelay": retry_delay or "42s"},
        ]


_QUOTA = "You exceeded your current quota, please check your plan and billing details."

ERRORS = {
    "invalid_argument": GeminiError(400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
    "api_key_invalid": GeminiError(
        400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", reason="API_KEY_INVALID"
    ),
    "failed_precondition": GeminiError(
        400, "FAILED_PRECONDITION", "User location is not supported for the API use without a billing account linked."
    ),
    "credit_exhausted": GeminiError(402, "RESOURCE_EXHAUSTED", "Your prepaid credit is used up."),
    "permission_denied": GeminiError(403, "PERMISSION_DENIED", "The caller does not have permission."),
    "unregistered_caller": GeminiError(
        403, "PERMISSION_DENIED",
        "Method doesn't allow unregistered callers (callers without established identity). Please use API Key.",
    ),
    "not_found": GeminiError(404, "NOT_FOUND", "The model is not found or is not supported for generateContent."),
    "quota_per_minute": GeminiError(
        429, "RESOURCE_EXHAUSTED", _QUOTA, quota_id="GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
    ),
    "quota_per_day": GeminiError(
        429, "RESOURCE_EXHAUSTED", _QUOTA, quota_id="GenerateRequestsPerDayPerProjectPerModel-FreeTier"
    ),
    "thinking_level_unsupported": GeminiError(
        400, "INVALID_ARGUMENT", "Thinking level is not supported for this model.", parameter="thinkingConfig"
    ),
    "thinking_minimal_unsupported": GeminiError(
        400, "INVALID_ARGUMENT", "Thinking level MINIMAL is not supported for this model; use LOW.",
        parameter="thinkingLevel MINIMAL",
    ),
    "thinking_config_unknown": GeminiError(
        400, "INVALID_ARGUMENT",
        "Invalid JSON payload received. Unknown name \"thinkingConfig\" at 'generation_config': Cannot find field.",
        parameter="thinkingConfig",
    ),
    "temperature_unsupported": GeminiError(
        400, "INVALID_ARGUMENT", "temperature is not supported for this model.", parameter="temperature"
    ),
    "system_instruction_unsupported": GeminiError(
        400, "INVALID_ARGUMENT", "Developer instruction is not enabled for this model.", parameter="systemInstruction"
    ),
    "functions_unsupported": GeminiError(
        400, "INVALID_ARGUMENT", "Function calling is not enabled for this model.", parameter="tools"
    ),
    "internal": GeminiError(500, "INTERNAL", "An internal error has occurred. Please retry."),
    "unavailable": GeminiError(503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    "deadline_exceeded": GeminiError(504, "DEADLINE_EXCEEDED", "The request timed out. Please try again."),
}  # fmt: skip


def _candidate(reason: str, *parts: JsonObject) -> JsonObject:
    content = {"content": {"parts": list(parts), "role": "model"}} if parts else {}
    return {"candidates": [{**content, "finishReason": reason, "index": 0}]}


_SEVEN = {"text": "We open at seven."}
_THOUGHT = {"text": "Let me think about what the customer needs.", "thought": True}

ANSWERS: dict[str, JsonObject] = {
    "blocked_prompt": {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}},
    "no_candidates": {},
    "no_content": {"candidates": [{"finishReason": "STOP", "index": 0}]},
    "no_parts": {"candidates": [{"content": {"role": "model"}, "finishReason": "STOP", "index": 0}]},
    "blank_text": _candidate("STOP", {"text": " \n"}),
    "thought_only": _candidate("STOP", _THOUGHT),
    "safety": _candidate("SAFETY"),
    "prohibited_content": _candidate("PROHIBITED_CONTENT"),
    "blocklist": _candidate("BLOCKLIST"),
    "spii": _candidate("SPII"),
    "recitation": _candidate("RECITATION"),
    "other": _candidate("OTHER"),
    "malformed_response": _candidate("MALFORMED_RESPONSE"),
    "max_tokens_empty": _candidate("MAX_TOKENS", _THOUGHT),
    "max_tokens_partial": _candidate("MAX_TOKENS", {"text": "Our bakery opens at seven and"}),
    "max_tokens_sentence": _candidate("MAX_TOKENS", {"text": "We open at seven. There are bread, cakes and the pi"}),
    "function_call": _candidate("STOP", {"functionCall": {"name": "call_person", "args": {}}}),
    "empty_parts": _candidate("STOP", {}, {"text": ""}),
    "second_candidate": {
        "candidates": [*_candidate("SAFETY")["candidates"], *_candidate("STOP", _SEVEN)["candidates"]]
    },
    "error_beside_candidates": {
        "error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"},
        **_candidate("STOP", _SEVEN),
    },
    "lone_surrogate": _candidate("STOP", {"text": "Good morning @LONE@ we open at seven."}),
    "nul_character": _candidate("STOP", {"text": "Good morning \x00 we open at seven."}),
    "invalid_utf8": _candidate("STOP", {"text": "Good morning @BYTE@ we open at seven."}),
    "unknown_finish_reason": _candidate("A_REASON_OF_TOMORROW", {"text": "Our bakery opens at seven."}),
    "reply": {},
}
"""Without `usageMetadata`, which every answer gets. `reply` says the rule's own `text`."""

BROKEN = {b"@LONE@": b"\\ud83d", b"@BYTE@": b"\xff"}
"""What no JSON writer writes, for the placeholders in the answers above."""
