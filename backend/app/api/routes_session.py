"""Signing in to the console and out of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query, Request, Response

from app.api.deps import CurrentUser, Replica
from app.api.json_route import json_router, open_router
from app.api.openapi import SESSION, problems
from app.api.schemas import AccessOut, MagicLinkIn, SessionIn, SessionOut
from app.api.session_cookie import clear_cookie, client_address, own_origin, refuse_cross_site, set_cookie, token_in
from app.domain.errors import Unavailable
from app.domain.models import User
from app.services.session_service import Session

router = json_router("/session", "session")
public = open_router("/session", "session")
ANYBODY: dict[str, object] = {"security": []}


@router.get("", responses=problems(401, 422, 503))
async def get_session(replica: Replica, user: CurrentUser) -> SessionOut:
    """Who is signed in, and where they may act."""
    return await _shown(replica, user)


@public.post("", openapi_extra=ANYBODY, responses=problems(400, 401, 403, 409, 413, 422, 429, 503))
async def sign_in(replica: Replica, request: Request, response: Response, body: SessionIn) -> SessionOut:
    """Sets the cookie of a session, which every route takes in place of a bearer token. Failed attempts are counted per
    address and per e-mail (429)."""
    refuse_cross_site(request, only_browsers=True)
    session = await _signed_in(replica, body, client_address(request, proxies=replica.proxies))
    try:
        shown = await _shown(replica, session.user)
    except Unavailable:
        await replica.sessions.close(session.token, everywhere=False)  # its cookie was never sent
        raise
    seconds = (session.user.expires_at - datetime.now(UTC)).total_seconds() if session.user.expires_at else 0
    set_cookie(request, response, session.token, max_age_seconds=seconds)
    return shown


@public.post(
    "/magic-link", status_code=202, openapi_extra=ANYBODY, responses=problems(400, 403, 409, 413, 422, 429, 503)
)
async def send_magic_link(replica: Replica, request: Request, body: MagicLinkIn) -> None:
    """A mail with a link that signs in, to a person who exists; the answer is the same for one who does not. The link
    leads to the console at PUBLIC_URL, which signs in with the token in it; without that setting, in production, to the
    Site URL of Supabase Auth."""
    refuse_cross_site(request, only_browsers=True)
    origin = replica.public_url or (own_origin(request) if replica.trusts_host else None)
    await replica.sessions.send_link(
        body.email,
        address=client_address(request, proxies=replica.proxies),
        back_to=f"{origin}/console" if origin else None,
    )


@public.delete("", status_code=204, openapi_extra={"security": [{}, SESSION]}, responses=problems(403, 422, 503))
async def sign_out(
    replica: Replica,
    request: Request,
    *,
    everywhere: Annotated[bool, Query(description="All sessions of this person, or of the operator.")] = False,
) -> Response:
    """Ends the session of the cookie. Without one nothing happens."""
    refuse_cross_site(request)
    if token := token_in(request):
        await replica.sessions.close(token, everywhere=everywhere)
    response = Response(status_code=204)
    clear_cookie(request, response)
    return response


async def _signed_in(replica: Replica, body: SessionIn, address: str) -> Session:
    sessions = replica.sessions
    if body.email is not None and body.password is not None:
        return await sessions.with_password(body.email, body.password, address=address)
    if body.operator_key is not None:
        return await sessions.with_operator_key(body.operator_key, address=address)
    return await sessions.with_token(body.token or "", body.refresh_token, address=address)


async def _shown(replica: Replica, user: User) -> SessionOut:
    return SessionOut(
        kind="operator" if user.is_operator else "member",
        user_id=user.id,
        email=user.email,
        accounts=[AccessOut.model_validate(access) for access in await replica.sessions.accounts(user)],
        expires_at=user.expires_at,
    )
