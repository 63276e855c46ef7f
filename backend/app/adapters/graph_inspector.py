"""The Graph API asked about an account: does its token work, what is its number, who gets its webhooks?

Three edges (Graph API): the phone number, with `health_status` as far as Meta tells it; `debug_token`;
`subscribed_apps` of the number's WhatsApp Business account. Each answer is one of the domain's facts, Meta's refusal in
its own words, or the reason why there is none. Past circuits and retries, over the connections of probes: messages
never wait for it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import quote

from app.adapters.whatsapp import failure_of, open_token
from app.core.failure_words import in_words
from app.core.http_client import GetClient, HttpError, Response, get_http_client_for_probes, request
from app.core.network_trouble import network_cause
from app.core.redaction import redact
from app.core.secrets import TokenCipher
from app.domain.account_health import (
    MANAGEMENT,
    MESSAGING,
    Inspection,
    MetaSaid,
    NotTold,
    NumberFacts,
    Refused,
    SubscriptionFacts,
    TokenFacts,
)
from app.domain.app_secrets import AppSecret, first_app
from app.domain.errors import AccountRejected, SendRejected
from app.domain.foreign_text import one_line
from app.domain.models import Account, Json

ASK_SECONDS = 5.0
"""For each question; the first two are asked at once."""
WORDS_CHARACTERS = 300
VALUE_CHARACTERS = 100
MAX_APPS = 100
MAX_SCOPES = 50
NUMBER_FIELDS = (
    "display_phone_number,verified_name,quality_rating,messaging_limit_tier,status,name_status,throughput,health_status"
)
_ID = re.compile(r"\d{1,40}", re.ASCII)
_LONG = re.compile(r"[A-Za-z0-9_-]{40,}")
"""No word is so long; a token is, and Meta quotes one that it cannot read."""
_NO_WABA = "Meta does not tell the number's WhatsApp Business account to this token"
_MISSING_FIELD = 100
"""An error's code: also of a field that this version of the API does not have."""


class GraphInspector:
    """Implements `domain.ports.Inspector`. `app_secrets`: with the app's id in front Meta is asked as that app, which
    may look at every token of its own; else with the token itself."""

    def __init__(
        self,
        *,
        base_url: str,
        api_version: str,
        cipher: TokenCipher,
        app_secrets: Sequence[AppSecret] = (),
        get_client: GetClient = get_http_client_for_probes,
    ) -> None:
        self._base_url = f"{base_url}/{api_version}"
        self._cipher = cipher
        self._apps = {secret.app_id: secret.key.decode() for secret in reversed(app_secrets) if secret.app_id}
        self._first_app = first_app(app_secrets)
        self._get_client = get_client

    async def inspect(self, account: Account) -> Inspection:
        app_id = account.app_id or self._first_app or None
        try:
            token = open_token(self._cipher.decrypt, account)
        except AccountRejected as exc:
            nothing = NotTold(str(exc), is_outage=False)
            return Inspection(nothing, nothing, nothing, app_id, unusable=exc.reason)
        (number, waba_id), (of_token, visible) = await asyncio.gather(
            self._number(account.phone_number_id, token), self._token(token, app_id)
        )
        if waba_id is None and len(visible) == 1:
            (waba_id,) = visible
        if waba_id is not None:
            subscription = await self._subscription(waba_id, token)
        elif isinstance(number, NotTold):
            subscription = number
        else:
            subscription = NotTold(_NO_WABA, is_outage=False)
        return Inspection(of_token, number, subscription, app_id, waba_id)

    async def _number(self, phone_number_id: str, token: str) -> tuple[NumberFacts | Refused | NotTold, str | None]:
        """With the WhatsApp Business account that it belongs to, if Meta tells it."""
        path = quote(phone_number_id, safe="")
        told = await self._ask(f"{path}?fields={NUMBER_FIELDS}", token)
        if isinstance(told, Refused) and told.reason is None and told.said.code == _MISSING_FIELD:
            told = await self._ask(f"{path}?fields={NUMBER_FIELDS.removesuffix(',health_status')}", token)
        if isinstance(told, Refused | NotTold):
            return told, None
        health = _object(told.get("health_status"))
        entities = _objects(health.get("entities"))
        waba_id = next((_id(each.get("id")) for each in entities if each.get("entity_type") == "WABA"), None)
        facts = NumberFacts(
            display_phone_number=_value(told, "display_phone_number"),
            verified_name=_value(told, "verified_name"),
            quality_rating=_value(told, "quality_rating"),
            messaging_limit_tier=_value(told, "messaging_limit_tier"),
            status=_value(told, "status"),
            name_status=_value(told, "name_status"),
            throughput=_value(_object(told.get("throughput")), "level"),
            can_send_message=_value(health, "can_send_message"),
            said=next(_complaints(entities, token), None),
        )
        return facts, waba_id

    async def _token(self, token: str, app_id: str | None) -> tuple[TokenFacts | Refused | NotTold, frozenset[str]]:
        """With the WhatsApp Business accounts that it opens, as far as Meta names them."""
        secret = self._apps.get(app_id or "")
        told = await self._ask(
            f"debug_token?input_token={quote(token, safe='')}", f"{app_id}|{secret}" if secret else token, hides=token
        )
        if isinstance(told, Refused | NotTold):
            return told, frozenset()
        data = _object(told.get("data"))
        if not isinstance(data.get("is_valid"), bool):
            return NotTold("debug_token answered in no known form", is_outage=False), frozenset()
        ends = data.get("expires_at")
        error = _object(data.get("error"))
        scopes = data.get("scopes")
        facts = TokenFacts(
            is_valid=data["is_valid"],
            expires_at=_time(ends) if isinstance(ends, int) and ends > 0 else None,
            scopes=tuple(one_line(each, VALUE_CHARACTERS) for each in scopes[:MAX_SCOPES] if isinstance(each, str))
            if isinstance(scopes, list)
            else (),
            app_id=_id(data.get("app_id")),
            said=_said(error, token) if error else None,
        )
        return facts, frozenset(_targets(data))

    async def _subscription(self, waba_id: str, token: str) -> SubscriptionFacts | Refused | NotTold:
        told = await self._ask(f"{waba_id}/subscribed_apps", token)
        if isinstance(told, Refused | NotTold):
            return told
        apps = [_object(each.get("whatsapp_business_api_data")) or each for each in _objects(told.get("data"))]
        return SubscriptionFacts(tuple(found for each in apps[:MAX_APPS] if (found := _id(each.get("id")))))

    async def _ask(self, path: str, bearer: str, *, hides: str | None = None) -> Json | Refused | NotTold:
        """`hides`: a token that Meta's words may quote besides `bearer`."""
        try:
            response = await request(
                "GET",
                f"{self._base_url}/{path}",
                timeout_seconds=ASK_SECONDS,
                headers={"authorization": f"Bearer {bearer}"},
                get_client=self._get_client,
            )
        except HttpError as exc:
            cause = network_cause(exc)
            return NotTold(f"Meta was not reached: {cause.said if cause else in_words(exc)}")
        body = _body(response)
        if response.status == 200:
            return body
        failure = failure_of(response)
        if isinstance(failure, AccountRejected | SendRejected):
            reason = failure.reason if isinstance(failure, AccountRejected) else None
            return Refused(_said(_object(body.get("error")), bearer, hides), reason)
        return NotTold(f"Meta did not answer the question: {in_words(failure)}")


def _said(error: Json, *hidden: str | None) -> MetaSaid:
    """Meta's words without the token that it may quote, in whatever form."""
    words = str(error.get("message") or error.get("error_description") or "")
    details = _object(error.get("error_data")).get("details") or error.get("possible_solution")
    if isinstance(details, str) and details and details not in words:
        words = f"{words}: {details}" if words else details
    for secret in filter(None, hidden):
        words = words.replace(secret, "…")
    words = one_line(redact(_LONG.sub("…", words)), WORDS_CHARACTERS)
    code, subcode = error.get("code", error.get("error_code")), error.get("error_subcode", error.get("subcode"))
    return MetaSaid(words, code if isinstance(code, int) else None, subcode if isinstance(subcode, int) else None)


def _complaints(entities: Sequence[Json], token: str) -> Iterator[MetaSaid]:
    """Why Meta lets something of the account not send, the first reason of each."""
    for entity in entities:
        for error in _objects(entity.get("errors")):
            yield _said(error, token)
            break


def _targets(data: Json) -> Iterator[str]:
    for scope in _objects(data.get("granular_scopes")):
        if scope.get("scope") in {MANAGEMENT, MESSAGING}:
            targets = scope.get("target_ids")
            yield from (found for each in targets or () if (found := _id(each)))


def _time(seconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _id(value: object) -> str | None:
    text = str(value) if isinstance(value, str | int) else ""
    return text if _ID.fullmatch(text) else None


def _value(told: Json, name: str) -> str | None:
    return one_line(told.get(name), VALUE_CHARACTERS) or None


def _object(value: object) -> Json:
    return value if isinstance(value, Mapping) else {}


def _objects(value: object) -> list[Json]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _body(response: Response) -> Json:
    try:
        return _object(response.json())
    except ValueError:
        return {}
