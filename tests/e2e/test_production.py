"""What a replica refuses over HTTP because APP_ENV is production."""

from __future__ import annotations

import httpx

from app.core.http_client import close_http_client
from app.main import create_app
from tests.support.serving import served, settings_of


async def test_production_takes_no_verify_token_that_may_be_guessed(valkey_url: str, store_url: str) -> None:
    key = "operator-of-a-production-of-the-test-suite"
    settings = settings_of(
        "https://127.0.0.1:1", valkey_url, store_url, app_env="production", admin_api_key=key,
        meta_app_secret="0123456789abcdef" * 2, whatsapp_verify_token="16-characters-ok",
    )  # fmt: skip
    body = {"name": "x", "slug": "guessed", "phone_number_id": "70001", "access_token": "a-token-of-the-sandbox"}
    headers = {"Authorization": f"Bearer {key}"}
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
