"""Supabase Auth: signing people in by password or by a link in a mail. `supabase_auth.py` verifies what they get."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import quote

from app.adapters.supabase_auth import auth_circuit
from app.core.deadline import Deadline
from app.core.http_client import GetClient, HttpError, Response, get_http_client, parse_retry_after, request
from app.core.resilience import ResiliencePolicy
from app.core.slots import Slots
from app.domain.errors import RateLimited, Unauthenticated, Unavailable
from app.domain.models import Json, SignedIn

logger = logging.getLogger(__name__)

T = TypeVar("T")

DEPENDENCY = "supabase"
SECONDS = 5.0
MAX_CONCURRENT = 20
MAX_OF_AN_ADDRESS = 5
"""One client that tries to sign in again and again leaves places to the others while Supabase is slow."""
RATE_LIMITED_SECONDS = 60.0
"""When Supabase names no delay of its own."""
_NOT_SIGNED_IN = frozenset({400, 401, 403, 404, 422})
"""Wrong password, e-mail not confirmed, banned, refresh token used or revoked: all are "no" to the person."""
_ANSWERS = _NOT_SIGNED_IN | {200, 429}
"""All that Supabase Auth answers itself. Anything else is a gateway's, or trouble."""


class SupabaseSignIn:
    """The port `IdentityProvider`. `key`: the project's publishable key, or its secret one. The group of a caller
    (core/slots.py) is a client's address."""

    def __init__(
        self,
        supabase_url: str,
        key: str,
        *,
        get_client: GetClient = get_http_client,
    ) -> None:
        self._url = f"{supabase_url}/auth/v1"
        self._headers = {"apikey": key}
        self._get_client = get_client
        # Tried once: a refresh token may be used once, and a mail must not come twice.
        self._policy = ResiliencePolicy(
            DEPENDENCY,
            breaker=auth_circuit("sign_in"),
            attempt_timeout_seconds=SECONDS,
            max_attempts=1,
            slots=Slots(MAX_CONCURRENT, per_group=MAX_OF_AN_ADDRESS),
        )

    async def with_password(self, email: str, password: str) -> SignedIn:
        return await self._token("password", {"email": email, "password": password})

    async def refresh(self, refresh_token: str) -> SignedIn:
        return await self._token("refresh_token", {"refresh_token": refresh_token})

    async def send_link(self, email: str, *, back_to: str | None) -> None:
        query = f"?redirect_to={quote(back_to, safe='')}" if back_to else ""
        response = await self._ask(self._post, f"otp{query}", {"email": email, "create_user": False})
        if response.status != 200:
            # A person whom Supabase does not know, or who had a mail a moment ago: the answer must not tell which.
            logger.info("no sign-in link was sent", extra={"status": response.status, "code": _code(response)})

    async def _token(self, grant: str, payload: Json) -> SignedIn:
        return await self._ask(self._signed_in, f"token?grant_type={grant}", payload)

    async def _signed_in(self, path: str, payload: Json) -> SignedIn:
        response = await self._post(path, payload)
        if response.status in _NOT_SIGNED_IN:
            raise Unauthenticated("Supabase did not sign this person in")
        if response.status == 429:
            wait = parse_retry_after(response.headers.get("retry-after")) or RATE_LIMITED_SECONDS
            raise RateLimited("Supabase is asked to sign people in too often", retry_after=wait)
        given = _json(response)
        access, refresh, seconds = (given.get(name) for name in ("access_token", "refresh_token", "expires_in"))
        if not (isinstance(access, str) and isinstance(refresh, str) and isinstance(seconds, int)):
            raise Unavailable(DEPENDENCY, f"supabase: an answer without tokens, HTTP {response.status}")
        return SignedIn(access, refresh, seconds)

    async def _ask(self, fn: Callable[[str, Json], Awaitable[T]], path: str, payload: Json) -> T:
        """`fn` behind the circuit, which so counts an answer that cannot be read as a failure."""
        return await self._policy.call(fn, path, payload, deadline=Deadline.after(SECONDS))

    async def _post(self, path: str, payload: Json) -> Response:
        try:
            response = await request(
                "POST",
                f"{self._url}/{path}",
                timeout_seconds=SECONDS,
                headers=self._headers,
                payload=payload,
                get_client=self._get_client,
            )
        except HttpError as exc:
            raise Unavailable(DEPENDENCY, f"supabase: sign-in: {type(exc).__name__}") from exc
        if response.status not in _ANSWERS:
            wait = parse_retry_after(response.headers.get("retry-after"))
            raise Unavailable(DEPENDENCY, f"supabase: sign-in: HTTP {response.status}", retry_after=wait)
        if response.status == 401 and not _code(response):  # the gateway in front of Auth, whose errors have codes
            raise Unavailable(DEPENDENCY, "supabase: sign-in: the key is refused, check SUPABASE_PUBLISHABLE_KEY")
        return response


def _code(response: Response) -> str:
    code = _json(response).get("error_code")
    return code if isinstance(code, str) else ""


def _json(response: Response) -> Json:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
