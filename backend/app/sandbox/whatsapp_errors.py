"""The Cloud API's errors by code: HTTP status and title, in the body Meta sends.

Source: facts of Meta's error-code page, 2026. Which of them is worth a retry is the client's business, not told here.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class WhatsAppError:
    code: int
    http_status: int
    title: str
    details: str = ""
    type: str = "OAuthException"

    def body(self, details: str | None = None, *, subcode: int | None = None) -> dict[str, Any]:
        error: dict[str, Any] = {
            "message": f"(#{self.code}) {self.title}",
            "type": self.type,
            "code": self.code,
            "error_data": {"messaging_product": "whatsapp", "details": details or self.details or self.title},
            "fbtrace_id": "A" + secrets.token_urlsafe(16),
        }
        if subcode is not None:
            error["error_subcode"] = subcode
        return {"error": error}

    def status_error(self) -> dict[str, object]:
        """The same error as a `failed` status or a message in a webhook carries it."""
        return {
            "code": self.code,
            "title": self.title,
            "message": self.title,
            "error_data": {"details": self.details or self.title},
            "href": "https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes/",
        }


_ROWS = (
    WhatsAppError(0, 401, "AuthException", "Unable to authenticate the app user."),
    WhatsAppError(1, 400, "API Unknown", "Invalid request or possible server error."),
    WhatsAppError(2, 503, "API Service", "Temporary due to downtime or due to being overloaded."),
    WhatsAppError(3, 403, "API Method", "Capability or permissions issue."),
    WhatsAppError(4, 429, "API Too Many Calls", "The app has reached its API call rate limit."),
    WhatsAppError(10, 403, "API Permission Denied", "Permission is either not granted or has been removed."),
    WhatsAppError(17, 400, "User request limit reached"),
    WhatsAppError(32, 400, "Page request limit reached"),
    WhatsAppError(33, 404, "Parameter value is not valid", "The business phone number has been deleted.",
                  "GraphMethodException"),
    WhatsAppError(100, 400, "Invalid parameter"),
    WhatsAppError(102, 401, "Session has expired", "The login status or access token has expired or been revoked."),
    WhatsAppError(190, 401, "Access token has expired", "The access token is invalid or has expired."),
    WhatsAppError(368, 403, "Temporarily blocked for policies violations"),
    WhatsAppError(341, 400, "Application limit reached", "Temporary: the app made too many calls."),
    WhatsAppError(613, 400, "Calls to this api have exceeded the rate limit."),
    WhatsAppError(80007, 429, "Rate limit issues", "The WhatsApp Business Account has reached its rate limit."),
    WhatsAppError(80008, 400, "There have been too many calls to this WhatsApp Business account."),
    WhatsAppError(130403, 403, "User is blocked", "The business has blocked this WhatsApp user."),
    WhatsAppError(130429, 429, "Rate limit hit", "Cloud API message throughput has been reached."),
    WhatsAppError(130472, 400, "User's number is part of an experiment"),
    WhatsAppError(130497, 403, "Business account is restricted from messaging users in this country"),
    WhatsAppError(130501, 400, "Message cannot be sent to this recipient"),
    WhatsAppError(131000, 500, "Something went wrong", "Message failed to send due to an unknown error."),
    WhatsAppError(131005, 403, "Access denied", "Permission is either not granted or has been removed."),
    WhatsAppError(131008, 400, "Required parameter is missing"),
    WhatsAppError(131009, 400, "Parameter value is not valid"),
    WhatsAppError(131016, 503, "Service unavailable", "A service is temporarily unavailable."),
    WhatsAppError(131021, 400, "Recipient cannot be sender"),
    WhatsAppError(131026, 400, "Message undeliverable"),
    WhatsAppError(131030, 400, "Recipient phone number not in allowed list"),
    WhatsAppError(131031, 403, "Account has been locked"),
    WhatsAppError(131037, 400, "Display name approval needed before a message can be sent"),
    WhatsAppError(131042, 402, "Business eligibility payment issue"),
    WhatsAppError(131045, 400, "Incorrect certificate", "Phone number registration error."),
    WhatsAppError(131047, 429, "Re-engagement message",
                  "More than 24 hours have passed since the recipient last replied to the sender number."),
    WhatsAppError(131048, 429, "Spam rate limit hit", "Too many earlier messages were blocked or flagged as spam."),
    WhatsAppError(131049, 429, "Message not delivered to maintain healthy ecosystem engagement"),
    WhatsAppError(131050, 400, "User has stopped marketing messages from your business"),
    WhatsAppError(131051, 400, "Unsupported message type"),
    WhatsAppError(131052, 400, "Media download error"),
    WhatsAppError(131053, 400, "Media upload error"),
    WhatsAppError(131056, 429, "(Business Account, Consumer Account) pair rate limit hit",
                  "Too many messages sent from the sender number to the same recipient number in a short period."),
    WhatsAppError(131057, 503, "Account in maintenance mode"),
    WhatsAppError(131062, 400, "Recipient not supported for this message"),
    WhatsAppError(131064, 429, "Message limit reached"),
    WhatsAppError(132000, 400, "Number of parameters does not match the expected number of params"),
    WhatsAppError(132001, 400, "Template name does not exist in the translation"),
    WhatsAppError(133004, 503, "Server Temporarily Unavailable"),
    WhatsAppError(133010, 400, "Phone number not registered"),
    WhatsAppError(133016, 429, "Account register deregister rate limit exceeded"),
    WhatsAppError(135000, 400, "Generic user error"),
    WhatsAppError(137000, 400, "Message cannot be sent to this recipient"),
    WhatsAppError(2494100, 503, "Account in maintenance mode"),
)  # fmt: skip

_BY_CODE = {row.code: row for row in _ROWS}


def whatsapp_error(code: int | str) -> WhatsAppError:
    """By code, with the ranges 200-299 (permission), 80000-80014 (a business's limits) and 132xxx (template). Raises
    `KeyError`."""
    number = int(code) if str(code).isdecimal() else -1
    if number in _BY_CODE:
        return _BY_CODE[number]
    if 200 <= number <= 299:
        return WhatsAppError(number, 403, "API Permission", "Permission is either not granted or has been removed.")
    if 80000 <= number <= 80014:
        return WhatsAppError(number, 400, "There have been too many calls from this business.")
    if 132000 <= number <= 132999:
        return WhatsAppError(number, 400, "Template error")
    raise KeyError(code)


def known_codes() -> tuple[int, ...]:
    """Every row of the table, for a test that goes through all of them."""
    return tuple(_BY_CODE)
