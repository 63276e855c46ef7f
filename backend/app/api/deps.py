"""One-line dependencies: the services of this replica, and who is asking."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Header, Query, Request
from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.api.session_cookie import client_address, refuse_cross_site, token_in
from app.core.fleet.registry import Registry
from app.core.logging import request_id
from app.core.queue import Queue
from app.domain.audit import ACTOR, actor_of
from app.domain.errors import ChorusError, Forbidden, InvalidInput, Unauthenticated, Unavailable
from app.domain.identifiers import as_written_by_us
from app.domain.models import User
from app.domain.ports import TokenVerifier
from app.services.account_health import AccountChecks
from app.services.account_service import AccountService
from app.services.audit_service import AuditService
from app.services.breaker_service import BreakerService
from app.services.conversation_service import ConversationService
from app.services.dead_letters import DeadLetterList
from app.services.endpoint_service import EndpointService
from app.services.health_service import HealthService
from app.services.invitation_service import InvitationService
from app.services.key_service import KeyService, is_api_key
from app.services.last_hour import LastHour
from app.services.live_events import LiveEvents
from app.services.privacy_service import PrivacyService
from app.services.queue_view import QueueView
from app.services.rehearsal import Rehearsal
from app.services.session_service import SessionService
from app.services.signup_service import SignupService
from app.services.silence_watch import SilenceWatch
from app.services.simulator import Simulator

OPERATOR = User(id="operator", is_operator=True)
MAX_NAMED = 5
"""Unknown query parameters in one message."""


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes call; built by `wiring`, yielded by the lifespan."""

    accounts: AccountService
    checks: AccountChecks
    signup: SignupService
    conversations: ConversationService
    endpoints: EndpointService
    keys: KeyService
    invitations: InvitationService
    audit: AuditService
    health: HealthService
    privacy: PrivacyService
    queue: Queue
    queue_view: QueueView
    rehearsal: Rehearsal
    dead_letters: DeadLetterList
    registry: Registry
    breakers: BreakerService
    silence: SilenceWatch
    simulator: Simulator
    last_hour: LastHour
    live: LiveEvents
    sessions: SessionService
    public_url: str | None
    """Where people reach the console, without a path. `None`: unknown."""
    trusts_host: bool
    """Without `public_url` a link in a mail may lead to the host that the request names. In production any stranger's
    request would choose it."""
    proxies: int
    """In front of this replica, each adding to X-Forwarded-For."""
    verifier: TokenVerifier | None
    admin_key: str
    metrics_key: str | None
    verify_token: str | None


def services(request: Request) -> Services:
    return cast("Services", request.state.services)


async def authenticate(request: Request) -> None:
    """Note who asks: the operator by ADMIN_API_KEY, a program by its API key, or the person behind a Supabase access
    token; the audit trail hears it, too. Raises `Unauthenticated` or `Unavailable`. Reads no byte of the body
    (`JsonRoute`)."""
    user = request.state.user = await _user(request)
    address = client_address(request, proxies=services(request).proxies)
    ACTOR.set(actor_of(user, address=address or None, request_id=request_id()))


async def current_user(request: Request) -> User:
    """As `authenticate` found out."""
    return cast("User", request.state.user)


async def is_still_signed_in(request: Request) -> bool:
    """Long after the request began. That a page is open is no use of its session. While nothing can be asked, what was
    known counts."""
    try:
        await _user(request, is_use=False)
    except Unavailable:
        return True
    except ChorusError:
        return False
    return True


async def _user(request: Request, *, is_use: bool = True) -> User:
    if "authorization" not in request.headers and (cookie := token_in(request)):
        return await _user_of_cookie(request, cookie, is_use=is_use)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("send Authorization: Bearer <token>")
    replica = services(request)
    if _has_key(request, replica.admin_key):
        return OPERATOR
    if is_api_key(token):
        return await replica.keys.verify(token)
    if replica.verifier is None:
        raise Unauthenticated("the token is not valid")
    return await replica.verifier.verify(token)


async def _user_of_cookie(request: Request, cookie: str, *, is_use: bool = True) -> User:
    refuse_cross_site(request)
    session = await services(request).sessions.find(cookie, is_use=is_use)
    if session is None:
        raise Unauthenticated("the session has ended")
    return session.user


async def is_operator(request: Request) -> bool:
    """Without complaint: /health shows more to the operator and a little to every caller."""
    if _has_key(request, services(request).admin_key):
        return True
    if "authorization" in request.headers or not (cookie := token_in(request)):
        return False
    with suppress(Unavailable, Unauthenticated):
        return (await _user_of_cookie(request, cookie)).is_operator
    return False


async def may_read_metrics(request: Request) -> bool:
    """The operator, and Prometheus with a key that opens nothing else."""
    key = services(request).metrics_key
    return (key is not None and _has_key(request, key)) or await is_operator(request)


def _has_key(request: Request, key: str) -> bool:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and secrets.compare_digest(token.encode(), key.encode())


CurrentUser = Annotated[User, Depends(current_user)]


def operator(user: CurrentUser) -> User:
    if not user.is_operator:
        raise Forbidden("this needs the operator's key (ADMIN_API_KEY)")
    return user


async def known_query(request: Request, _user: CurrentUser) -> None:
    """As `only_known_query`, after `current_user`: who may not ask is told that first."""
    await only_known_query(request)


async def only_known_query(request: Request) -> None:
    """A query parameter that the route does not have is refused by name: a typing error must not look like success."""
    known = set(_query_names(request.scope["route"].dependant))
    unknown = sorted({name for name in request.query_params if name not in known})
    if unknown:
        names = ", ".join(f'"{name}"' for name in unknown[:MAX_NAMED])
        takes = f"takes {', '.join(sorted(known))}" if known else "takes none"
        raise InvalidInput(f"unknown query parameter {names}; this route {takes}", field=unknown[0])


def _query_names(dependant: Any) -> Iterator[str]:
    """Of a route and what it depends on (FastAPI's `Dependant`)."""
    yield from (parameter.alias for parameter in dependant.query_params)
    for each in dependant.dependencies:
        yield from _query_names(each)


Operator = Annotated[User, Depends(operator)]
Replica = Annotated[Services, Depends(services)]
AccountId = Annotated[
    str, Query(description="Of one of your accounts, from `GET /accounts`."), AfterValidator(as_written_by_us)
]
Limit = Annotated[int, Query(ge=1, le=200, description="Items on the page, at most.")]


def _form(pattern: str) -> WithJsonSchema:
    """What the document says of a parameter that is given in this form or left out: it is never null."""
    return WithJsonSchema({"type": "string", "pattern": pattern})


_FROM_PAGE_BEFORE = "`next_cursor` of the page before; left out for the first page."
_PLACE = r"^[0-9]{1,17}\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_SEQUENCE = r"^[0-9]{1,18}$"
_LETTER = r"^e?[0-9]{1,4}-[0-9]{1,19}-[0-9]{1,19}$"
_PLACE_IN_STREAM = r"^[0-9]{1,20}-[0-9]{1,20}$"
_KEY = r"^[\x21-\x7e]{1,200}$"
ConversationCursor = Annotated[str | None, Query(pattern=_PLACE, description=_FROM_PAGE_BEFORE), _form(_PLACE)]
MessageCursor = Annotated[str | None, Query(pattern=_SEQUENCE, description=_FROM_PAGE_BEFORE), _form(_SEQUENCE)]
SequenceCursor = MessageCursor
"""Lists in the order of a sequence have cursors of one form."""
LetterCursor = Annotated[str | None, Query(pattern=_LETTER, description=_FROM_PAGE_BEFORE), _form(_LETTER)]


def _switch(value: object) -> bool:
    """pydantic reads "yes", "on" and "1" too."""
    if value not in ("true", "false"):
        raise PydanticCustomError("bool_type", "Input should be true or false")
    return value == "true"


Switch = Annotated[Annotated[bool, BeforeValidator(_switch)] | None, WithJsonSchema({"type": "boolean"})]
_WORDS = r"^[^\x00]*[^\s\x00][^\x00]*$"
SearchWords = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=200,
        pattern=_WORDS,
        description="Words of the contact's name or of one message, or their beginnings, without regard to accents and"
        " capitals; or a part of the number. At most ten words count.",
    ),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 200, "pattern": _WORDS}),
]
LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", pattern=_PLACE_IN_STREAM, description="Of the last event seen."),
    _form(_PLACE_IN_STREAM),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=_KEY,
        description="Chosen by you, one for each message: a repetition with the same key sends nothing twice. With"
        " another text it is refused (422 `idempotency_key_reused`).",
    ),
    _form(_KEY),
]
