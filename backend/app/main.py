"""`create_app(settings)`: the HTTP side of one replica."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypedDict

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from app import __version__
from app.api import (
    routes_account_health,
    routes_accounts,
    routes_admin,
    routes_api_keys,
    routes_audit,
    routes_bot,
    routes_console,
    routes_contacts,
    routes_conversations,
    routes_endpoints,
    routes_events,
    routes_health,
    routes_invitations,
    routes_media,
    routes_members,
    routes_session,
    routes_webhook,
)
from app.api.deps import Services
from app.api.errors import install_error_handlers
from app.api.middleware import Observed
from app.api.openapi import document
from app.api.plain_route import PlainRoute
from app.settings import Settings
from app.wiring import connect

logger = logging.getLogger(__name__)


class State(TypedDict):
    services: Services


class Chorus(FastAPI):
    """FastAPI, except that webhook deliveries skip its middleware and routing: they are most of the traffic, and
    the bare callable takes twice as many per second (`make bench`)."""

    webhook: routes_webhook.WebhookReceiver | None = None

    def build_middleware_stack(self) -> ASGIApp:
        # Outside of Starlette's own handler of unexpected errors, whose answers are answers too.
        return Observed(super().build_middleware_stack())

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = document(self, routes_health.OPERATIONS | routes_webhook.OPERATIONS)
        return self.openapi_schema

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            self.webhook is not None
            and scope["type"] == "http"
            and scope["path"] == routes_webhook.PATH
            and scope["method"] == "POST"
        ):
            await self.webhook(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def create_app(settings: Settings) -> Chorus:
    """An app whose lifespan connects everything. One per process: it joins the toolbox's objects to the fleet."""

    @asynccontextmanager
    async def lifespan(app: Chorus) -> AsyncIterator[State]:
        phase = "start"
        try:
            async with connect(settings) as replica:
                app.state.replica = replica
                app.webhook = routes_webhook.WebhookReceiver(replica.ingest, replica.app_secrets)
                yield {"services": replica.services}
                phase = "stop"
        except Exception as exc:
            # Starlette hands its whole text to uvicorn, and our formatter writes nothing of that.
            logger.critical("failed at its %s", phase, exc_info=exc)
            raise

    # Without redirects to a path with or without a slash: they lose the body of half of the clients.
    app = Chorus(title="Chorus", version=__version__, lifespan=lifespan, redirect_slashes=False, **_no_docs(settings))
    install_error_handlers(app)
    app.router.routes += [
        *routes_health.ROUTES,
        *routes_console.ROUTES,
        PlainRoute(routes_webhook.PATH, routes_webhook.Handshake().answer, methods=["GET"]),
    ]
    app.include_router(routes_session.public)
    for router in (routes_invitations.router, routes_invitations.accepting, routes_audit.router):
        app.include_router(router)
    for module in (
        routes_session, routes_events, routes_accounts, routes_account_health, routes_members, routes_api_keys,
        routes_endpoints, routes_bot, routes_contacts, routes_conversations, routes_media, routes_admin,
    ):  # fmt: skip
        app.include_router(module.router)
    return app


def openapi_document() -> dict[str, object]:
    """What `docs/openapi.json` holds; the same for every setting."""
    return create_app(Settings.model_construct()).openapi()


def _no_docs(settings: Settings) -> dict[str, Any]:
    """The interactive documentation is for development."""
    return {} if settings.app_env == "development" else {"docs_url": None, "redoc_url": None, "openapi_url": None}
