"""Signing in to the console: who gets a session, what it opens, how it ends, and what another site can do with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio
import redis

from app.adapters.supabase_sign_in import SupabaseSignIn
from app.core.circuit_breaker import CIRCUIT_BREAKERS, CircuitBreakerOpenError
from app.core.errors import Unavailable
from app.localhost.servers import Valkey
from app.services.session_service import GRACE_SECONDS, MAILS_TO_AN_EMAIL, TRIES_OF_AN_ADDRESS, TRIES_OF_AN_EMAIL
from tests.support.replica import Replica, one_replica, token_of
from tests.support.serving import OPERATOR_KEY
from tests.support.supabase_people import PUBLISHABLE_KEY, SupabasePeople, supabase_people

pytestmark = pytest.mark.asyncio(loop_scope="module")

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
HTTPS = {"X-Forwarded-Proto": "https"}


class Browser:
    """Keeps its cookies, sends no Authorization, and says where its requests come from."""

    def __init__(self, api: Replica, *, address: str = "203.0.113.9") -> None:
        self.api = api
        self.cookies: dict[str, str] = {}
        self.headers = {"X-Forwarded-For": address}

    async def __call__(self, method: str, path: str, *, status: int = 200, **more: Any) -> httpx.Response:
        response = await self.ask(method, path, **more)
        assert response.status_code == status, response.text
        return response

    async def ask(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        sent = self.headers | (SAME_ORIGIN if headers is None else headers)
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        response = await self.api.http.request(method, self.api.url + path, headers=sent, **more)
        self.api.http.cookies.clear()
        for name, value in response.cookies.items():
            self.cookies[name] = value
        return response

    async def sign_in(self, *, status: int = 200, **body: str) -> httpx.Response:
        return await self("POST", "/session", status=status, json=body)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def people() -> AsyncIterator[SupabasePeople]:
    async with supabase_people() as people:
        yield people


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(module_stores: tuple[str, str], people: SupabasePeople) -> AsyncIterator[Replica]:
    more = {"supabase_url": people.url, "supabase_publishable_key": PUBLISHABLE_KEY, "trusted_proxies": 1}
    async with one_replica(*module_stores, **more) as api:
        yield api


@pytest.fixture
def redis_client(module_stores: tuple[str, str]) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(module_stores[0]) as client:
        yield client


async def test_a_password_opens_a_session_that_every_route_takes(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    browser = Browser(api)
    response = await browser.sign_in(email=" Ada@Example.com ", password="right")
    shown = response.json()
    assert (shown["kind"], shown["user_id"], shown["email"]) == ("member", "ada", "ada@example.com")
    assert {"id": account["id"], "name": account["name"], "role": "owner"} in shown["accounts"]
    cookie = response.headers["set-cookie"]
    assert cookie.startswith("chorus_session=")
    for word in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=6048"):
        assert word in cookie
    assert "Secure" not in cookie
    again = (await browser("GET", "/session")).json()
    assert again == shown | {"expires_at": again["expires_at"]}
    profile = f"/bot/profile?account_id={account['id']}"
    await browser("PUT", profile, json={"hours": "9-5"})
    assert (await browser("GET", profile)).json()["hours"] == "9-5"
    await browser("GET", "/admin/fleet", status=403)


async def test_behind_tls_the_cookie_is_bound_to_the_host_and_to_https(api: Replica) -> None:
    browser = Browser(api)
    browser.headers |= HTTPS
    cookie = (await browser.sign_in(operator_key=OPERATOR_KEY)).headers["set-cookie"]
    assert cookie.startswith("__Host-chorus_session=")
    for word in ("HttpOnly", "SameSite=strict", "Path=/", "Secure"):
        assert word in cookie
    assert "Domain" not in cookie
    assert (await browser("GET", "/session")).json()["kind"] == "operator"
    # The name without the prefix, which a page of a sister domain can set, opens nothing here.
    browser.cookies = {"chorus_session": browser.cookies["__Host-chorus_session"]}
    await browser("GET", "/session", status=401)


async def test_the_operators_key_opens_a_session_that_sees_everything(api: Replica) -> None:
    account, browser = await api.new_account(), Browser(api)
    shown = (await browser.sign_in(operator_key=OPERATOR_KEY)).json()
    assert (shown["kind"], shown["email"]) == ("operator", None)
    assert {"id": account["id"], "name": account["name"], "role": "owner"} in shown["accounts"]
    await browser("GET", "/admin/fleet")
    assert "fleet" in (await browser("GET", "/health")).json()
    assert "fleet" not in (await Browser(api)("GET", "/health")).json()
    await browser("GET", "/metrics")


async def test_a_token_of_a_mail_opens_a_session_that_ends_with_it_unless_it_can_be_renewed(
    api: Replica, people: SupabasePeople
) -> None:
    tokens = people.tokens("bob@example.com")
    short = (await Browser(api).sign_in(token=tokens["access_token"])).headers["set-cookie"]
    assert "Max-Age=35" in short or "Max-Age=3600" in short
    long = await Browser(api).sign_in(token=tokens["access_token"], refresh_token=tokens["refresh_token"])
    assert "Max-Age=6048" in long.headers["set-cookie"]
    for wrong in ("x", token_of("bob", iss="https://another.example/auth/v1"), OPERATOR_KEY):
        await Browser(api).sign_in(token=wrong, status=401)


@pytest.mark.parametrize(
    "body",
    [
        {}, {"email": "ada@example.com"}, {"password": "right"}, {"operator_key": "x", "token": "y"},
        {"email": "ada@example.com", "password": "right", "token": "y"}, {"refresh_token": "x"},
        {"email": "ada", "password": "x"}, {"operator_key": ""}, {"key": "x"}, {"operator_key": "x" * 9000},
    ],
)  # fmt: skip
async def test_half_a_credential_is_none(api: Replica, body: dict[str, str]) -> None:
    assert "set-cookie" not in (await Browser(api).sign_in(status=422, **body)).headers


async def test_a_large_body_of_a_stranger_is_not_read(api: Replica) -> None:
    await Browser(api)("POST", "/session", status=413, content=b"{" + b" " * 20_000, headers=SAME_ORIGIN)


async def test_signing_out_ends_this_session_or_all_of_them(api: Replica) -> None:
    here, there, other = Browser(api), Browser(api), Browser(api)
    for browser, email in ((here, "ada@example.com"), (there, "ada@example.com"), (other, "bob@example.com")):
        await browser.sign_in(email=email, password="right")
    stolen = dict(here.cookies)
    gone = await here("DELETE", "/session", status=204)
    assert 'chorus_session=""' in gone.headers["set-cookie"]
    here.cookies = stolen
    await here("GET", "/session", status=401)
    await there("GET", "/session")
    await here.sign_in(email="ada@example.com", password="right")
    await here("DELETE", "/session?everywhere=true", status=204)
    await there("GET", "/session", status=401)
    await other("GET", "/session")


async def test_a_made_up_token_of_a_known_person_ends_no_session(api: Replica) -> None:
    browser, stranger = Browser(api), Browser(api)
    await browser.sign_in(email="ada@example.com", password="right")
    ((name, token),) = browser.cookies.items()
    stranger.cookies = {name: f"{token.partition('.')[0]}.{'A' * 43}"}
    await stranger("DELETE", "/session?everywhere=true", status=204)
    await browser("GET", "/session")


async def test_another_sites_page_changes_nothing(api: Replica) -> None:
    account, browser = await api.new_account(), Browser(api)
    await browser.sign_in(operator_key=OPERATOR_KEY)
    path, body, own = f"/accounts/{account['id']}", {"name": "changed"}, api.url
    for headers in (
        {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site", "Origin": own}, {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": f"{own}.evil.example"}, {},
    ):  # fmt: skip
        refused = await browser("PATCH", path, status=403, json=body, headers=headers)
        assert refused.json()["error"]["code"] == "forbidden"
        await browser("DELETE", "/session", status=403, headers=headers)
    for headers in ({"Origin": own}, {"Sec-Fetch-Site": "same-origin", "Origin": own}):
        await browser("PATCH", path, json=body, headers=headers)
    # Nor does it sign a browser in as another person.
    await Browser(api)(
        "POST", "/session", status=403, json={"operator_key": OPERATOR_KEY}, headers={"Sec-Fetch-Site": "cross-site"}
    )
    await Browser(api)("POST", "/session", json={"operator_key": OPERATOR_KEY}, headers={})  # a program
    # A bearer token is not sent by a browser on its own.
    await api("PATCH", path, json=body, headers={"Sec-Fetch-Site": "cross-site"})


async def test_guessing_is_slowed_for_each_person_and_for_each_address(api: Replica) -> None:
    for n in range(TRIES_OF_AN_EMAIL):
        await Browser(api, address=f"198.51.100.{n}").sign_in(email="bob@example.com", password="wrong", status=401)
    refused = await Browser(api, address="198.51.100.99").sign_in(email="Bob@example.com", password="right", status=429)
    assert refused.json()["error"]["code"] == "rate_limited"
    assert 0 < int(refused.headers["retry-after"]) <= 900
    for n in range(TRIES_OF_AN_ADDRESS):
        # What the client itself writes into the header stands before the balancer's entry.
        await Browser(api, address=f"10.0.0.{n}, 192.0.2.7").sign_in(operator_key="guessed", status=401)
    await Browser(api, address="192.0.2.7").sign_in(operator_key=OPERATOR_KEY, status=429)
    for _ in range(TRIES_OF_AN_EMAIL + 1):  # what is refused at once takes no try from the person
        await Browser(api, address="192.0.2.7").sign_in(email="ada@example.com", password="guessed", status=429)
    await Browser(api, address="192.0.2.9").sign_in(email="ada@example.com", password="right")
    await Browser(api, address="192.0.2.8").sign_in(operator_key=OPERATOR_KEY)
    for _ in range(TRIES_OF_AN_ADDRESS + 1):  # what succeeds does not count
        await Browser(api, address="192.0.2.8").sign_in(operator_key=OPERATOR_KEY)


async def test_a_mail_is_asked_for_a_few_times_and_nothing_tells_who_exists(
    api: Replica, people: SupabasePeople
) -> None:
    origin = {"Origin": api.url}
    for email in ("ada@example.com", "stranger@example.com"):
        answer = await Browser(api)("POST", "/session/magic-link", status=202, json={"email": email}, headers=origin)
        assert answer.content == b"null"
    assert people.mails == [("ada@example.com", f"{api.url}/console")]
    for _ in range(MAILS_TO_AN_EMAIL - 1):
        await Browser(api)("POST", "/session/magic-link", status=202, json={"email": "ada@example.com"}, headers={})
    assert people.mails[1:] == [("ada@example.com", None)] * (MAILS_TO_AN_EMAIL - 1)
    await Browser(api)("POST", "/session/magic-link", status=429, json={"email": "ada@example.com"})


async def test_a_session_is_renewed_and_ends_when_supabase_says_no(
    api: Replica, people: SupabasePeople, redis_client: redis.Redis
) -> None:
    people.token_seconds = 1  # due at once
    browser = Browser(api)
    await browser.sign_in(
        token=people.tokens("eve@example.com")["access_token"], refresh_token=f"refresh-{people._made}"
    )
    people.token_seconds = 3600
    age(redis_client, seconds=3600)
    await browser("GET", "/session")
    assert people.asked[-1] == "/auth/v1/token?grant_type=refresh_token"
    asked = len(people.asked)
    await browser("GET", "/session")
    assert len(people.asked) == asked
    assert b"refresh-" not in b"".join(redis_client.hvals(key_of(redis_client, "eve")))  # encrypted
    # Supabase is away: no one is signed out, until an hour later nothing is known of them any more.
    try:
        people.is_away = True
        age(redis_client, seconds=3600)
        await browser("GET", "/session")
        age(redis_client, seconds=GRACE_SECONDS)
        await browser("GET", "/session", status=503)
        people.is_away = False
        people.banned.add("eve@example.com")
        age(redis_client, seconds=0)
        await browser("GET", "/session", status=401)
    finally:
        people.is_away = False
        people.banned.clear()
    await browser("GET", "/session", status=401)


async def test_what_is_wrong_with_supabase_auth_opens_no_circuit_but_its_own(people: SupabasePeople) -> None:
    sign_in = SupabaseSignIn(people.url, PUBLISHABLE_KEY)
    database = CIRCUIT_BREAKERS["supabase"]
    before = database.snapshot()
    people.is_away = True
    try:
        for _ in range(5):
            with pytest.raises(Unavailable):
                await sign_in.with_password("ada@example.com", "right")
    finally:
        people.is_away = False
    with pytest.raises(CircuitBreakerOpenError):
        await sign_in.with_password("ada@example.com", "right")
    assert database.snapshot() == before


async def test_the_operator_comes_in_while_the_database_is_away_and_no_session_is_left_of_others(
    api: Replica, redis_client: redis.Redis, people: SupabasePeople, module_stores: tuple[str, str]
) -> None:
    await api.new_account(owner="zoe")
    operator, zoe = Browser(api), Browser(api)
    connection = await asyncpg.connect(module_stores[1])
    try:
        await connection.execute("begin; lock table whatsapp_accounts in access exclusive mode")
        shown = (await operator.sign_in(operator_key=OPERATOR_KEY)).json()
        assert (shown["kind"], shown["accounts"]) == ("operator", [])
        assert (await operator("GET", "/admin/breakers")).json()
        await zoe.sign_in(token=people.tokens("zoe@example.com")["access_token"], status=503)
    finally:
        await connection.close()
    with pytest.raises(AssertionError, match="zoe"):
        key_of(redis_client, "zoe")


async def test_a_session_ends_when_it_is_idle_and_at_its_end(api: Replica, redis_client: redis.Redis) -> None:
    for seconds, moved in ((12 * 3600, "seen"), (7 * 86400, "ends")):
        browser = Browser(api)
        await browser.sign_in(operator_key=OPERATOR_KEY)
        key = key_of(redis_client, "operator")
        for name, value in redis_client.hgetall(key).items():
            seen, ends, rest = value.split(b"|", 2)
            if moved == "seen":
                seen = b"%d" % (int(seen) - seconds * 1000)
            else:
                ends = b"%d" % (int(ends) - seconds * 1000)
            redis_client.hset(key, name, b"|".join((seen, ends, rest)))
        await browser("GET", "/session", status=401)
        assert redis_client.hlen(key) <= 1 or moved == "seen"


async def test_without_redis_nobody_is_let_in(api: Replica, valkey: Valkey) -> None:
    browser = Browser(api)
    await browser.sign_in(operator_key=OPERATOR_KEY)
    valkey.pause()  # it answers nothing
    try:
        asked, health, signed_in = await asyncio.gather(
            browser.ask("GET", "/session"),
            browser.ask("GET", "/health"),
            Browser(api).ask("POST", "/session", json={"operator_key": OPERATOR_KEY}),
        )
    finally:
        valkey.resume()
    assert (asked.status_code, asked.json()["error"]["code"]) == (503, "redis_unavailable")
    assert "fleet" not in health.json()
    assert signed_in.status_code == 503
    assert "set-cookie" not in signed_in.headers
    async with asyncio.timeout(10):
        while (await browser.ask("GET", "/session")).status_code != 200:
            await asyncio.sleep(0.02)


def key_of(client: redis.Redis, owner: str) -> bytes:
    """Redis knows a digest of the owner; the data says who it is."""
    for key in client.scan_iter("chorus:session:*"):
        if client.type(key) == b"hash" and any(b'"id":"%b"' % owner.encode() in value for value in client.hvals(key)):
            return bytes(key)
    raise AssertionError(owner)


def age(client: redis.Redis, *, seconds: float) -> None:
    """Eve's session is due for renewal so much earlier, and no request is about to renew it."""
    key = key_of(client, "eve")
    for name, value in client.hgetall(key).items():
        seen, ends, due, data = value.split(b"|", 3)
        client.hset(key, name, b"|".join((seen, ends, b"%d" % (int(due) - round(seconds * 1000)), data)))
    for held in client.scan_iter(key + b":renewing:*"):
        client.delete(held)
