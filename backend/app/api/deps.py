"""One-line dependencies: the services of this replica, and who is asking."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Query, Request

from app.core.queue import Queue
from app.core.registry import Registry
from app.domain.errors import Forbidden, Unauthenticated
from app.domain.models import User
from app.domain.ports import TokenVerifier
from app.services.account_service import AccountService
from app.services.breaker_service import BreakerService
from app.services.conversation_service import ConversationService
from app.services.health_service import HealthService
from app.services.silence_watch import SilenceWatch

OPERATOR = User(id="operator", is_operator=True)


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes call; built by `wiring`, yielded by the lifespan."""

    accounts: AccountService
    conversations: ConversationService
    health: HealthService
    queue: Queue
    registry: Registry
    breakers: BreakerService
    silence: SilenceWatch
    verifier: TokenVerifier | None
    admin_key: str
    verify_token: str | None


def services(request: Request) -> Services:
    return cast("Services", request.state.services)


async def current_user(request: Request) -> User:
    """The operator by ADMIN_API_KEY, or the person behind a Supabase access token."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("send Authorization: Bearer <token>")
    replica = services(request)
    if is_operator(request):
        return OPERATOR
    if replica.verifier is None:
        raise Unauthenticated("the token is not valid")
    return await replica.verifier.verify(token)


def is_operator(request: Request) -> bool:
    """Without complaint: /health shows more to the operator and something to everybody."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    key = services(request).admin_key
    return scheme.lower() == "bearer" and secrets.compare_digest(token.encode(), key.encode())


CurrentUser = Annotated[User, Depends(current_user)]


def operator(user: CurrentUser) -> User:
    if not user.is_operator:
        raise Forbidden("this needs the operator's key (ADMIN_API_KEY)")
    return user


Operator = Annotated[User, Depends(operator)]
Replica = Annotated[Services, Depends(services)]
Limit = Annotated[int, Query(ge=1, le=200)]
