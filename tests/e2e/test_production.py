"""What a replica refuses over HTTP because APP_ENV is production."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from app.adapters.supabase_sign_in import SupabaseSignIn
from app.core.http_client import close_http_client
from app.main import create_app
from app.settings import Settings
from tests.support.serving import served, settings_of

KEY = "operator-of-a-production-of-the-test-suite"


def production(valkey_url: str, store_url: str, **more: Any) -> Settings:
    return settings_of(
        "https://127.0.0.1:1", valkey_url, store_url, app_env="production", admin_api_key=KEY,
        meta_app_secret="0123456789abcdef" * 2, whatsapp_verify_token="16-characters-ok", **more,
    )  # fmt: skip


@pytest.mark.parametrize("public_url", [None, "https://chorus.example.com"])
async def test_a_link_in_a_mail_leads_nowhere_that_a_request_names(
    valkey_url: str, store_url: str, monkeypatch: pytest.MonkeyPatch, public_url: str | None
) -> None:
    mails: list[str | None] = []

    async def send_link(_: SupabaseSignIn, _email: str, *, back_to: str | None) -> None:
        mails.append(back_to)

    monkeypatch.setattr(SupabaseSignIn, "send_link", send_link)
    supabase = {"supabase_url": "https://127.0.0.1:1", "supabase_publishable_key": "publishable"}
    settings = production(valkey_url, store_url, public_url=public_url, **supabase)
    evil = "evil.example"
    claims: list[dict[str, str]] = [
        {"Host": evil, "Origin": f"https://{evil}", "X-Forwarded-Proto": "https"},
        {"Host": evil, "Origin": f"https://{evil}", "X-Forwarded-Proto": "https", "Sec-Fetch-Site": "same-origin"},
        {"X-Forwarded-Host": evil, "Forwarded": f"host={evil};proto=https"},
        {"Host": f"chorus.example.com:443@{evil}"},
        {},
    ]
    async with served(create_app(settings)) as url, httpx.AsyncClient(base_url=url) as http:
        for headers in claims:
            await http.post("/session/magic-link", json={"email": "ada@example.com"}, headers=headers)
        assert mails
        assert set(mails) == {public_url and f"{public_url}/console"}
        account = {"name": "x", "slug": "links", "phone_number_id": "70003", "access_token": "a-token-of-the-sandbox"}
        operator = {"Authorization": f"Bearer {KEY}"}
        made = await http.post("/accounts", json=account | {"verify_token": "16-others-are-ok"}, headers=operator)
        path = f"/accounts/{made.json()['id']}/invitations"
        invited = await http.post(path, json={"role": "viewer"}, headers=operator)
        assert invited.json()["link"].startswith(f"{public_url or url}/console#invitation=")
    await close_http_client()


async def test_production_takes_no_verify_token_that_may_be_guessed(valkey_url: str, store_url: str) -> None:
    settings = production(valkey_url, store_url)
    body = {"name": "x", "slug": "guessed", "phone_number_id": "70001", "access_token": "a-token-of-the-sandbox"}
    headers = {"Authorization": f"Bearer {KEY}"}
    async with served(create_app(settings)) as url, httpx.AsyncClient(base_url=url, headers=headers) as http:
        made = await http.post("/accounts", json=body | {"verify_token": "16-others-are-ok"})
        assert made.status_code == 201, made.text
        path = f"/accounts/{made.json()['id']}"
        for token in ("short-15-chars!", "a" * 40):
            again = body | {"slug": "again", "phone_number_id": "70002", "verify_token": token}
            for refused in (
                await http.post("/accounts", json=again), await http.patch(path, json={"verify_token": token}),
            ):  # fmt: skip
                error = refused.json()["error"]
                assert (refused.status_code, error["code"], error["field"]) == (422, "invalid_input", "verify_token")
                assert token not in refused.text
        renamed = await http.patch(path, json={"name": "y", "verify_token": "16-more-are-ok-2"})
        assert renamed.status_code == 200, renamed.text
    await close_http_client()
