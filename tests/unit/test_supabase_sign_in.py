"""Signing in by Supabase Auth: its trouble opens its circuit, and one client takes not all places."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from app.adapters.supabase_sign_in import MAX_CONCURRENT, MAX_OF_AN_ADDRESS, SupabaseSignIn
from app.core.circuit_breaker import CircuitBreakerOpenError
from app.core.errors import Overloaded, Unavailable
from app.core.slots import Caller, calling_as
from app.domain.errors import Unauthenticated

TOKENS = {"access_token": "a", "refresh_token": "r", "expires_in": 3600}


class Auth:
    """Supabase Auth, as the test has it."""

    def __init__(self) -> None:
        self.answer: Callable[[], httpx.Response] = lambda: httpx.Response(200, json=TOKENS)
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = 0
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self.handle))
        self.sign_in = SupabaseSignIn("https://project.supabase.test", "key", get_client=self.get_client)

    async def get_client(self) -> httpx.AsyncClient:
        return self.client

    async def handle(self, _request: httpx.Request) -> httpx.Response:
        self.asked += 1
        await self.answers.wait()
        return self.answer()

    async def by_password(self) -> object:
        return await self.sign_in.with_password("ada@example.com", "right")

    async def by_refresh(self) -> object:
        return await self.sign_in.refresh("r")

    async def by_link(self) -> object:
        return await self.sign_in.send_link("ada@example.com", back_to=None)


@pytest.fixture
async def auth() -> AsyncIterator[Auth]:
    made = Auth()
    yield made
    await made.client.aclose()


@pytest.mark.parametrize("way", ["by_password", "by_refresh", "by_link"])
@pytest.mark.parametrize("status", [302, 405, 409, 500, 502, 503, 504, 522])
async def test_what_is_no_answer_of_supabase_auth_opens_its_circuit(auth: Auth, status: int, way: str) -> None:
    auth.answer = lambda: httpx.Response(status, html="<h1>a page of the gateway</h1>")
    for _ in range(5):
        with pytest.raises(Unavailable):
            await getattr(auth, way)()
    with pytest.raises(CircuitBreakerOpenError):
        await getattr(auth, way)()
    assert auth.asked == 5


@pytest.mark.parametrize("way", ["by_password", "by_refresh"])
async def test_a_200_without_tokens_opens_the_circuit(auth: Auth, way: str) -> None:
    auth.answer = lambda: httpx.Response(200, html="<h1>maintenance</h1>")
    for _ in range(5):
        with pytest.raises(Unavailable, match="without tokens"):
            await getattr(auth, way)()
    with pytest.raises(CircuitBreakerOpenError):
        await getattr(auth, way)()


async def test_a_wrong_password_says_nothing_about_supabase(auth: Auth) -> None:
    auth.answer = lambda: httpx.Response(400, json={"error_code": "invalid_credentials"})
    for _ in range(10):
        with pytest.raises(Unauthenticated):
            await auth.by_password()


async def test_one_client_leaves_places_to_the_others_while_supabase_is_slow(auth: Auth) -> None:
    auth.answers.clear()

    async def sign_in(address: str) -> object:
        with calling_as(Caller(group=address)):
            return await auth.by_password()

    stuck = [asyncio.create_task(sign_in("203.0.113.9")) for _ in range(2 * MAX_CONCURRENT)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert auth.asked <= MAX_OF_AN_ADDRESS
    other = asyncio.create_task(sign_in("198.51.100.7"))
    async with asyncio.timeout(5):
        while auth.asked < MAX_OF_AN_ADDRESS + 1:
            await asyncio.sleep(0)
    auth.answers.set()
    assert await other
    results = await asyncio.gather(*stuck, return_exceptions=True)
    assert not [each for each in results if isinstance(each, BaseException) and not isinstance(each, Overloaded)]
