"""One replica in this process, with the sandbox outside and people who sign in: for tests of the HTTP interface."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import jwt

from app.core.http_client import close_http_client
from app.main import create_app
from app.sandbox.app import running_sandbox
from app.sandbox.client import SandboxClient
from app.sandbox.config import SandboxAccount, SandboxConfig
from tests.support.serving import APP_SECRET, OPERATOR_KEY, served, settings_of

SUPABASE_URL = "http://127.0.0.1:9"
"""Without a listener: tokens signed with the project's secret are verified without asking."""
JWT_SECRET = "a-legacy-secret-of-more-than-32-characters"
NUMBER, NUMBERS_TOKEN = "106540352242922", "token-that-opens-the-number"


def token_of(user: str, **claims: Any) -> str:
    """An access token as Supabase signs it."""
    now = time.time()
    usual = {
        "iss": f"{SUPABASE_URL}/auth/v1", "aud": "authenticated", "role": "authenticated", "sub": user,
        "iat": now, "exp": now + 3600,
    }  # fmt: skip
    return jwt.encode(usual | claims, JWT_SECRET, algorithm="HS256")


@dataclass
class Replica:
    """A replica's HTTP interface, as the operator unless `user` says otherwise."""

    url: str
    http: httpx.AsyncClient
    sandbox: SandboxClient
    made: int = field(default=0)

    async def raw(self, method: str, path: str, *, user: str | None = None, **more: Any) -> httpx.Response:
        bearer = OPERATOR_KEY if user is None else token_of(user)
        headers = {"Authorization": f"Bearer {bearer}"} | more.pop("headers", {})
        return await self.http.request(method, self.url + path, headers=headers, **more)

    async def __call__(self, method: str, path: str, *, status: int = 200, **more: Any) -> Any:
        """The answer's JSON; the status is asserted."""
        response = await self.raw(method, path, **more)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    async def refused(self, method: str, path: str, *, status: int, **more: Any) -> dict[str, Any]:
        """The `error` of a refusal, in the one shape that there is."""
        answer = await self(method, path, status=status, **more)
        assert set(answer) == {"error"}
        assert {"code", "message", "request_id"} <= set(answer["error"]) <= {"code", "message", "request_id", "field"}
        return dict(answer["error"])

    async def new_account(self, *, owner: str | None = None, **changes: Any) -> dict[str, Any]:
        self.made += 1
        body = {
            "name": f"Shop {self.made}", "slug": f"shop-{self.made}", "phone_number_id": f"9000{self.made:06d}",
            "access_token": "a-token-of-the-sandbox", "verify_token": f"verify-token-{self.made}", **changes,
        }  # fmt: skip
        account = dict(await self("POST", "/accounts", json=body, status=201))
        if owner is not None:
            await self("PUT", f"/accounts/{account['id']}/members/{owner}", json={"role": "owner"})
        return account


@asynccontextmanager
async def one_replica(redis_url: str, database_url: str, **settings: Any) -> AsyncIterator[Replica]:
    """NUMBER is registered with the sandbox, which lets only NUMBERS_TOKEN in."""
    config = SandboxConfig(
        app_secret=APP_SECRET, accounts=(SandboxAccount(NUMBER, NUMBERS_TOKEN),), accept_unknown_accounts=False
    )
    async with running_sandbox(config) as sandbox:
        given = settings_of(
            sandbox.url, redis_url, database_url,
            **{"supabase_url": SUPABASE_URL, "supabase_jwt_secret": JWT_SECRET} | settings,
        )  # fmt: skip
        async with served(create_app(given)) as url, httpx.AsyncClient(timeout=10) as http:
            yield Replica(url, http, SandboxClient(sandbox.url))
        await close_http_client()
