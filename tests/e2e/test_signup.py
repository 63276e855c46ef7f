"""Creating accounts over HTTP: by the operator, or by people for a number that WhatsApp says is theirs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.services.signup_service import MAX_ACCOUNTS, MAX_TRIES
from app.settings import Signup
from tests.support.replica import NUMBER, NUMBERS_TOKEN, Replica, one_replica, token_of


def account_of(number: str = NUMBER, token: str = NUMBERS_TOKEN, slug: str = "mine") -> dict[str, Any]:
    return {
        "name": "Mine", "slug": slug, "phone_number_id": number, "access_token": token, "verify_token": "verify-me",
    }  # fmt: skip


@pytest.fixture
async def api(valkey_url: str, store_url: str) -> AsyncIterator[Replica]:
    async with one_replica(valkey_url, store_url, signup=Signup.OPEN) as api:
        yield api


async def test_by_default_only_the_operator_creates_accounts(valkey_url: str, store_url: str) -> None:
    async with one_replica(valkey_url, store_url) as api:
        error = await api.refused("POST", "/accounts", user="ada", status=403, json=account_of())
        assert "operator" in error["message"]
        assert await api.sandbox.record(kind="number") == []
        # The operator is believed: WhatsApp would have said no.
        await api("POST", "/accounts", status=201, json=account_of("555", "any-token-at-all"))


async def test_a_person_creates_and_owns_an_account_for_a_number_their_token_opens(api: Replica) -> None:
    account = await api("POST", "/accounts", user="ada", status=201, json=account_of())
    assert [each["id"] for each in await api("GET", "/accounts", user="ada")] == [account["id"]]
    assert await api("GET", "/accounts", user="eve") == []
    member = await api("GET", f"/accounts/{account['id']}/members/ada", user="ada")
    assert member["role"] == "owner"


@pytest.mark.parametrize(
    ("number", "token", "field"),
    [(NUMBER, "a-stolen-token", "access_token"), ("777", NUMBERS_TOKEN, "phone_number_id")],
)
async def test_a_stranger_claims_no_number(api: Replica, number: str, token: str, field: str) -> None:
    error = await api.refused("POST", "/accounts", user="eve", status=422, json=account_of(number, token))
    assert error["field"] == field
    assert "WhatsApp" in error["message"]
    assert await api("GET", "/accounts") == []


async def test_an_anonymous_user_creates_nothing(api: Replica) -> None:
    headers = {"Authorization": f"Bearer {token_of('ghost', is_anonymous=True)}"}
    error = await api.refused("POST", "/accounts", status=403, headers=headers, json=account_of())
    assert error["code"] == "forbidden"
    assert await api.sandbox.record(kind="number") == []


async def test_while_whatsapp_is_away_nothing_is_created(api: Replica) -> None:
    await api.sandbox.add_fault("whatsapp", match={"operation": "number"}, http_status=500)
    response = await api.raw("POST", "/accounts", user="ada", json=account_of())
    assert (response.status_code, response.json()["error"]["code"]) == (503, "whatsapp_unavailable")
    assert int(response.headers["retry-after"]) > 0
    assert await api("GET", "/accounts") == []


async def test_tries_are_limited_per_person(api: Replica) -> None:
    for _ in range(MAX_TRIES):
        await api.refused("POST", "/accounts", user="eve", status=422, json=account_of(token="a-guessed-token"))
    response = await api.raw("POST", "/accounts", user="eve", json=account_of())
    assert (response.status_code, response.json()["error"]["code"]) == (429, "rate_limited")
    assert 0 < int(response.headers["retry-after"]) <= 3600
    assert len(await api.sandbox.record(kind="number")) == MAX_TRIES
    await api("POST", "/accounts", user="ada", status=201, json=account_of())


async def test_accounts_are_limited_per_person_and_a_refused_one_does_not_count(api: Replica) -> None:
    numbers = [f"5550{n:03d}" for n in range(MAX_ACCOUNTS + 1)]
    for number in numbers:
        await api.sandbox.add_account(number, NUMBERS_TOKEN)

    async def create(number: str, slug: str) -> httpx.Response:
        return await api.raw("POST", "/accounts", user="ada", json=account_of(number, slug=slug))

    assert (await create(numbers[0], "shop-0")).status_code == 201
    assert (await create(numbers[1], "shop-0")).json()["error"]["code"] == "slug_taken"
    for n in range(1, MAX_ACCOUNTS):
        assert (await create(numbers[n], f"shop-{n}")).status_code == 201
    assert (await create(numbers[-1], "one-more")).status_code == 429
