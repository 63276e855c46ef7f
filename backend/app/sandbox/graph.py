"""The Graph API's edges about an account, as far as Chorus asks them: its number, its token, who gets its webhooks.

What each account is like is told with `POST /sandbox/accounts`. Rules hit these calls as well, but they use up none of
their `count` unless they name the operation: a check of health must not take the place of a send.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.sandbox.config import SandboxAccount
from app.sandbox.exchange import Answer, answer, false_answer
from app.sandbox.faults import Call, Fault
from app.sandbox.state import SandboxState
from app.sandbox.whatsapp_errors import whatsapp_error

EXPIRED = 463
"""Subcode of 190 (Graph API, "Authorization errors")."""
_NOT_THERE = 33
"""Subcode of 100: it does not exist, or not for this token."""


class Graph:
    def __init__(self, state: SandboxState) -> None:
        self._state = state

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/{version}/debug_token", self.debug_token, methods=["GET"]),
            Route("/{version}/{waba_id}/subscribed_apps", self.subscribed_apps, methods=["GET", "POST", "DELETE"]),
        ]

    async def number(self, request: Request, phone_number_id: str) -> Response:
        """`GET /{phone_number_id}?fields=…`: to a token that opens the number, what Meta knows of it."""
        known = self._state.accounts.get(phone_number_id)

        def describe() -> Answer:
            if not self._state.token_opens(bearer(request), known):
                if known is not None or self._state.config.accept_unknown_accounts:
                    return refusal(190, subcode=EXPIRED)
                return _not_there(phone_number_id)
            account = known or SandboxAccount(phone_number_id, "")
            told = _number(account)
            asked = request.query_params.get("fields")
            if asked is not None:
                told = {name: told[name] for name in ["id", *asked.split(",")] if name in told}
            return Answer.json(200, told, processed=True)

        return await self._answer(request, "number", describe, phone_number_id)

    async def debug_token(self, request: Request) -> Response:
        """`GET /debug_token?input_token=…`, by the app (`<id>|<secret>`) or by the token itself."""
        token = request.query_params.get("input_token", "")

        def inspect() -> Answer:
            asks = bearer(request)
            if not asks or ("|" not in asks and not self._state.token_is_known(asks)):
                return refusal(190, subcode=EXPIRED)
            return Answer.json(200, {"data": self._token(token)}, processed=True)

        return await self._answer(request, "debug_token", inspect)

    async def subscribed_apps(self, request: Request) -> Response:
        """Which apps get the webhooks of this WhatsApp Business account: `GET` lists them, `POST` adds the token's app,
        `DELETE` removes it."""
        waba_id, token = request.path_params["waba_id"], bearer(request)

        def process() -> Answer:
            if not self._state.token_is_known(token):
                return refusal(190, subcode=EXPIRED)
            mine = [account for account in self._state.accounts.values() if account.waba_id == waba_id]
            opened = [account for account in mine if self._state.token_opens(token, account)]
            if not opened and not self._state.config.accept_unknown_accounts:
                return _not_there(waba_id)
            if request.method == "GET":
                account = next(iter(opened or mine), SandboxAccount("", ""))
                return Answer.json(200, {"data": [_app(app) for app in account.subscribed_apps]}, processed=True)
            for account in opened:
                apps = [app for app in account.subscribed_apps if app != account.app_id]
                apps += [account.app_id] if request.method == "POST" else []
                self._state.accounts[account.phone_number_id] = replace(account, subscribed_apps=tuple(apps))
            return Answer.json(200, {"success": True}, processed=True)

        return await self._answer(request, "subscribed_apps", process)

    async def _answer(
        self, request: Request, operation: str, process: Callable[[], Answer], phone_number_id: str | None = None
    ) -> Response:
        entry = self._state.record.open(operation, b"", phone_number_id=phone_number_id)
        fault = self._state.faults.pick("whatsapp", Call(operation, phone_number_id), counted=False)
        return await answer(
            request, self._state.record, entry, fault, lambda fault: told_falsely(fault) or process()
        )  # fmt: skip

    def _token(self, token: str) -> dict[str, Any]:
        """Unknown tokens are valid only while no number is registered, and so none is refused to them."""
        accounts = [account for account in self._state.accounts.values() if account.access_token == token]
        takes_any = self._state.config.accept_unknown_accounts and not self._state.accounts
        if not accounts and not (token and takes_any):
            error = {"code": 190, "message": "Malformed access token", "subcode": 467}
            return {"is_valid": False, "scopes": [], "error": error}
        account = accounts[0] if accounts else SandboxAccount("", "")
        told: dict[str, Any] = {
            "app_id": account.app_id,
            "type": "SYSTEM_USER",
            "is_valid": account.token_valid,
            "expires_at": account.token_expires_at,
            "scopes": list(account.token_scopes),
            "granular_scopes": [
                {"scope": scope, "target_ids": sorted({each.waba_id for each in accounts})}
                for scope in account.token_scopes
            ],
        }
        if not account.token_valid:
            message = "Error validating access token: Session has expired"
            told["error"] = {"code": 190, "message": message, "subcode": EXPIRED}
        return told


def _app(app_id: str) -> dict[str, object]:
    about = {"id": app_id, "link": f"https://app.example/{app_id}", "name": f"App {app_id}"}
    return {"whatsapp_business_api_data": about}


def _number(account: SandboxAccount) -> dict[str, Any]:
    waba: dict[str, Any] = {
        "entity_type": "WABA", "id": account.waba_id, "can_send_message": account.can_send_message,
    }  # fmt: skip
    if account.can_send_message != "AVAILABLE":
        waba["errors"] = [
            {
                "error_code": 141006,
                "error_description": "There is an error with the payment method.",
                "possible_solution": "Add a new payment method to the account.",
            }
        ]
    number = {"entity_type": "PHONE_NUMBER", "id": account.phone_number_id, "can_send_message": "AVAILABLE"}
    return {
        "id": account.phone_number_id,
        "display_phone_number": account.display_phone_number,
        "verified_name": account.verified_name,
        "quality_rating": account.quality_rating,
        "messaging_limit_tier": account.messaging_limit_tier,
        "status": account.status,
        "name_status": account.name_status,
        "throughput": {"level": "STANDARD"},
        "health_status": {"can_send_message": account.can_send_message, "entities": [number, waba]},
    }


def bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def refusal(code: int | str, details: str | None = None, *, subcode: int | None = None) -> Answer:
    error = whatsapp_error(code)
    return Answer.json(error.http_status, error.body(details, subcode=subcode), code=str(error.code))


def told_falsely(fault: Fault | None) -> Answer | None:
    """What a rule makes us say in place of the truth."""
    if fault is None:
        return None
    code = fault.spec.error
    error = whatsapp_error(code) if code else None
    return false_answer(fault.spec, (error.http_status, error.body()) if error else None, code)


def _not_there(node_id: str) -> Answer:
    return refusal(100, f"Unsupported get request. Object with ID '{node_id}' does not exist.", subcode=_NOT_THERE)
