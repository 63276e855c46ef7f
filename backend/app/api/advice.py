"""What the caller can do about an error: the second half of every error's `message`.

sentence("account_not_found", 404, "no such account")
"No such account. Check the id: GET /accounts lists the accounts that you may see."
"""

from __future__ import annotations

from collections.abc import Mapping

_AGAIN = "Correct it and send the request again."

ADVICE: Mapping[str, str] = {
    "account_not_found": "Check the id: GET /accounts lists the accounts that you may see.",
    "body_too_large": "Send less at once.",
    "breaker_not_found": "GET /admin/breakers lists them by name.",
    "conversation_not_found": "Check the id: GET /conversations?account_id=… lists those of an account.",
    "forbidden": "Ask an owner of the account or the operator for it.",
    "headers_too_large": "Send fewer or shorter headers, or a shorter path.",
    "idempotency_key_reused": "Send a new key with every new text.",
    "inbox_full": "Try again later; GET /health says what is away.",
    "invalid_input": _AGAIN,
    "invalid_json": "Send a JSON document with Content-Type: application/json.",
    "invalid_signature": "Sign the raw body with the Meta app's secret; META_APP_SECRET must have the same one.",
    "last_owner": "Make another member an owner first.",
    "member_not_found": "GET /accounts/{id}/members lists them.",
    "method_not_allowed": "The header Allow of this answer names those that it takes.",
    "overloaded": "Try again after the seconds in Retry-After.",
    "phone_number_id_taken": "Use the account that has it, or correct the phone_number_id.",
    "rate_limited": "Try again after the seconds in Retry-After.",
    "reply_key_taken": "Use a new Idempotency-Key.",
    "request_timeout": "Send it again, on a new connection.",
    "sign_in_not_configured": "Sign in with the operator's key, or ask the operator to set it.",
    "slug_taken": "Choose another one.",
    "too_many_chunks": "Send larger chunks, or a Content-Length.",
    "too_many_connections": "Try again after the seconds in Retry-After.",
    "too_many_webhooks": "Delete one first.",
    "too_many_requests_ahead": "Wait for answers before you send more on one connection.",
    "unauthenticated": "Sign in again, or use the operator's key.",
    "verification_failed": "Type the account's verify token, or WHATSAPP_VERIFY_TOKEN, into Meta's webhook form.",
    "webhook_not_found": "GET /accounts/{id}/webhooks lists them.",
    "window_closed": "Wait until the customer writes again, or send a template.",
}  # fmt: skip
"""By code, where there is more to say than what the status says."""

BY_STATUS: Mapping[int, str] = {
    400: _AGAIN,
    401: "Send Authorization: Bearer <token>.",
    403: "Ask the operator for access.",
    404: "Check the path and the ids in the request.",
    405: "Use another method.",
    409: "Look at its present state before you try again.",
    413: "Send less at once.",
    415: "Send JSON with Content-Type: application/json.",
    422: _AGAIN,
    429: "Try again after the seconds in Retry-After.",
    500: "Try again later; the log has the cause under this request id.",
    502: "Try again later; the log has the cause under this request id.",
    503: "Try again after the seconds in Retry-After; GET /health says what is away.",
}


def advice_for(code: str, status: int) -> str:
    """A whole sentence."""
    return ADVICE.get(code) or BY_STATUS.get(status) or BY_STATUS[500 if status >= 500 else 400]


def sentence(code: str, status: int, what: str) -> str:
    """`what` happened as a sentence, then what to do about it."""
    what = what.strip().rstrip(".")
    return f"{what[:1].upper()}{what[1:]}. {advice_for(code, status)}"
