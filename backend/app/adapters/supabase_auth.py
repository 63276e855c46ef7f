"""Supabase Auth: who holds this access token. Verified here, with keys fetched now and then; no call per request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import jwt
from jwt import PyJWK

from app.core.circuit_breaker import BreakerPolicy, CircuitBreaker
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.deadline import Deadline
from app.core.http_client import GetClient, HttpError, get_http_client, request
from app.core.resilience import ResiliencePolicy
from app.core.slots import Slots
from app.domain.errors import Unauthenticated, Unavailable
from app.domain.identifiers import is_member_id
from app.domain.models import Json, User

logger = logging.getLogger(__name__)

DEPENDENCY = "supabase"
AUDIENCE = "authenticated"
ROLE = "authenticated"
LEEWAY_SECONDS = 10.0
FETCH_SECONDS = 5.0
"""For all attempts of one fetch of the keys."""
MAX_AGE_SECONDS = 600.0
"""Supabase's edge caches the key set as long; a revoked key is forgotten after this."""
MIN_REFETCH_SECONDS = 10.0
"""Between fetches, so that tokens with invented key ids cannot make us hammer Supabase."""
MAX_TOKEN_CHARS = 8192
MAX_KEYS = 32

_ALGORITHM_OF: Mapping[tuple[Any, Any], str] = {("EC", "P-256"): "ES256", ("RSA", None): "RS256"}
"""By key type and curve. The token's own `alg` never chooses: that is how a public key gets used as an HMAC secret."""


def auth_circuit(of: str) -> CircuitBreaker:
    """Not the database's: strangers bring about calls of Supabase Auth, and its trouble must stop no message."""
    return CircuitBreaker(f"supabase_auth_{of}", BreakerPolicy(5, 5.0, max_open_seconds=30.0), dependency=DEPENDENCY)


class SupabaseTokenVerifier:
    """Implements `domain.ports.TokenVerifier`. `jwt_secret`: the legacy HS256 secret, if the project still has one."""

    def __init__(
        self,
        supabase_url: str,
        *,
        jwt_secret: str | None = None,
        clock: Clock = SYSTEM_CLOCK,
        breaker: CircuitBreaker | None = None,
        get_client: GetClient = get_http_client,
    ) -> None:
        self._issuer = f"{supabase_url}/auth/v1"
        self._secret = jwt_secret
        self._clock = clock
        self._get_client = get_client
        self._keys: Mapping[str, PyJWK] = {}
        self._fetched_at: float | None = None
        self._tried_at: float | None = None
        self._fetching = asyncio.Lock()
        self._policy = ResiliencePolicy(
            DEPENDENCY,
            breaker=breaker or auth_circuit("keys"),
            attempt_timeout_seconds=FETCH_SECONDS / 2,
            max_attempts=2,
            slots=Slots(1),
        )

    async def verify(self, token: str) -> User:
        try:
            if len(token) > MAX_TOKEN_CHARS:
                raise Unauthenticated("the access token is too long")
            header = jwt.get_unverified_header(token)
            key, algorithm = await self._key_for(header)
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self._issuer,
                audience=AUDIENCE,
                leeway=LEEWAY_SECONDS,
                # No condition (RFC 7519, 4.1.6): a replica whose clock is behind would refuse every token.
                options={"require": ["exp", "iss", "aud", "sub"], "verify_iat": False},
            )
        except jwt.ExpiredSignatureError as exc:
            raise Unauthenticated("the access token has expired") from exc
        except jwt.PyJWTError as exc:
            raise Unauthenticated("the access token is not valid") from exc
        if claims.get("role") != ROLE:
            # Not `anon`, and never `service_role`: the project's API keys are signed with the same legacy secret.
            raise Unauthenticated("the access token is not a signed-in user's")
        if not is_member_id(claims["sub"]):
            # Signed or not: no member has such an id, and Postgres takes neither NUL nor a lone surrogate.
            raise Unauthenticated("the access token names no user")
        email = claims.get("email")
        return User(
            id=claims["sub"],
            is_anonymous=claims.get("is_anonymous") is True,
            email=email if isinstance(email, str) and email else None,
            expires_at=datetime.fromtimestamp(int(claims["exp"]), UTC),
        )

    async def _key_for(self, header: Json) -> tuple[Any, str]:
        """The key and the one algorithm it may be used with."""
        if header.get("alg") == "HS256":
            if self._secret is None:
                raise Unauthenticated("the access token is not valid")
            return self._secret, "HS256"
        kid = header.get("kid")
        if not isinstance(kid, str):
            raise Unauthenticated("the access token names no key")
        aged = self._age(self._fetched_at) > MAX_AGE_SECONDS and not self._fetching.locked()
        if kid not in self._keys or aged:
            await self._refresh()
        found = self._keys.get(kid)
        if found is None:
            raise Unauthenticated("the access token is signed with an unknown key")
        return found.key, found.algorithm_name

    async def _refresh(self) -> None:
        """Fetch the keys, unless that was tried a moment ago. One at a time; those who waited use what it brought.

        Old keys keep working while Supabase is away. Raises `Unavailable` only if there have never been any.
        """
        async with self._fetching:
            wait = MIN_REFETCH_SECONDS - self._age(self._tried_at)
            if wait > 0 and self._fetched_at is None:
                raise Unavailable(DEPENDENCY, "supabase: no signing keys yet", retry_after=wait)
            if wait > 0:
                return
            self._tried_at = self._clock.monotonic()
            try:
                keys = await self._policy.call(self._fetch, deadline=Deadline.after(FETCH_SECONDS))
            except Unavailable as exc:
                if self._fetched_at is None:
                    raise
                logger.warning("signing keys not refreshed", extra={"reason": str(exc)})
                return
            if self._keys and not keys:
                # A project that had keys has some: the mistake is on the other side, and would sign everyone out.
                logger.warning("signing keys not refreshed", extra={"reason": "the set is empty"})
                return
            self._keys, self._fetched_at = keys, self._clock.monotonic()

    async def _fetch(self) -> Mapping[str, PyJWK]:
        try:
            response = await request(
                "GET",
                f"{self._issuer}/.well-known/jwks.json",
                timeout_seconds=FETCH_SECONDS / 2,
                get_client=self._get_client,
            )
            body = response.json() if response.status == 200 else None
        except (HttpError, ValueError) as exc:
            raise Unavailable(DEPENDENCY, f"supabase: no signing keys: {type(exc).__name__}") from exc
        keys = body.get("keys") if isinstance(body, dict) else None
        if not isinstance(keys, list):
            raise Unavailable(DEPENDENCY, f"supabase: no signing keys: HTTP {response.status}")
        return dict(pair for pair in map(_usable, keys[:MAX_KEYS]) if pair is not None)

    def _age(self, at: float | None) -> float:
        return float("inf") if at is None else self._clock.monotonic() - at


def _usable(key: object) -> tuple[str, PyJWK] | None:
    """A key we can verify with, by its id. Other kinds are skipped: a set may hold keys for newer clients."""
    if not isinstance(key, dict) or not isinstance(key.get("kid"), str):
        return None
    algorithm = _ALGORITHM_OF.get((key.get("kty"), key.get("crv")))
    if algorithm is None or key.get("alg", algorithm) != algorithm or key.get("use", "sig") != "sig":
        return None
    try:
        return key["kid"], PyJWK(key, algorithm=algorithm)
    except jwt.PyJWTError:
        logger.warning("a signing key could not be read", extra={"kid": key["kid"]})
        return None
