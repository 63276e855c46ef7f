"""The simulator: the bot as it would answer with an unsaved profile, by the real prompt, at no risk."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from app.services.simulator import MOST_ANSWERS
from tests.support.replica import Replica, one_replica

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(module_stores: tuple[str, str]) -> AsyncIterator[Replica]:
    async with one_replica(*module_stores) as api:
        yield api


def asked(*texts: str) -> list[dict[str, str]]:
    """The customer begins."""
    return [{"from": ("customer", "bot")[n % 2], "text": text} for n, text in enumerate(texts)]


async def simulate(
    api: Replica, account: dict[str, Any], *, status: int = 200, user: str | None = None, **body: Any
) -> Any:
    return await api("POST", f"/bot/simulate?account_id={account['id']}", status=status, user=user, json=body)


async def prompts(api: Replica) -> list[dict[str, Any]]:
    return [each["body"] for each in await api.sandbox.record(kind="generate")]


async def test_the_unsaved_profile_answers_and_nothing_is_stored_or_sent(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    path = f"/bot/profile?account_id={account['id']}"
    before = await api("PUT", path, json={"business_name": "Maison Levain", "hours": "Tue-Sun 7:00-19:30"})
    said = await simulate(
        api, account, user="ada",
        profile={"hours": "Every day 8:00-22:00"}, turns=asked("Hello", "Hello! How can I help?", "When do you open?"),
    )  # fmt: skip
    assert said["text"]
    assert (said["calls_person"], said["reason"]) == (False, None)
    told = (await prompts(api))[-1]
    (system,) = told["systemInstruction"]["parts"]
    shown = [(turn["from"], turn["text"]) for turn in said["prompt"]["turns"]]
    sent = [("customer" if each["role"] == "user" else "bot", each["parts"][0]["text"]) for each in told["contents"]]
    assert (said["prompt"]["system"], shown) == (system["text"], sent)
    prompt = str(told)
    assert "Every day 8:00-22:00" in prompt
    assert "7:00-19:30" not in prompt
    assert "Maison Levain" in prompt
    assert "How can I help?" in prompt
    assert await api("GET", path) == before
    assert (await api("GET", f"/conversations?account_id={account['id']}"))["items"] == []
    assert await api.sandbox.record(kind="send") == []


async def test_it_says_why_a_person_would_be_called(api: Replica) -> None:
    account = await api.new_account()
    by_keyword = await simulate(
        api, account, profile={"handover_keywords": ["gluten"], "fallback_text": "A colleague will write."},
        turns=asked("Is it gluten free?"),
    )  # fmt: skip
    why = {"calls_person": True, "reason": "customer_asked"}
    assert by_keyword == {"text": "A colleague will write.", "prompt": None, **why}
    by_model = await simulate(api, account, turns=asked("I want to talk to a human, please"))
    assert by_model["calls_person"]
    assert by_model["reason"] == "customer_asked"
    await api.sandbox.add_fault("gemini", gemini="safety", count=1)
    refused = await simulate(api, account, profile={"fallback_text": "Later."}, turns=asked("Anything"))
    assert refused.pop("prompt")["turns"] == asked("Anything")
    assert refused == {"text": "Later.", "calls_person": True, "reason": "model_refused"}


async def test_its_tokens_are_the_accounts_and_its_budget_holds(api: Replica) -> None:
    account = await api.new_account()
    await simulate(api, account, turns=asked("When do you open?"))
    (today,) = await api("GET", f"/accounts/{account['id']}/usage?days=1")
    assert (today["answers"], today["prompt_tokens"] > 100, today["output_tokens"] > 0) == (0, True, True)
    await api("PATCH", f"/accounts/{account['id']}", json={"daily_token_budget": today["prompt_tokens"]})
    calls = len(await prompts(api))
    refused = await api.raw(
        "POST", f"/bot/simulate?account_id={account['id']}", json={"turns": asked("When do you open?")}
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    assert len(await prompts(api)) == calls


async def test_null_is_the_applications_default(api: Replica) -> None:
    account = await api.new_account()
    await api("PUT", f"/bot/profile?account_id={account['id']}", json={"handover_keywords": ["gluten"]})
    said = await simulate(api, account, profile={"handover_keywords": None}, turns=asked("Is it gluten free?"))
    assert not said["calls_person"]


async def test_what_could_not_be_saved_is_not_simulated(api: Replica) -> None:
    account = await api.new_account()
    for body in (
        {"turns": []}, {"turns": asked("Hi", "Hello")}, {"turns": [{"from": "model", "text": "x"}]},
        {"turns": asked("Hi"), "profile": {"temperature": 9}}, {"turns": asked("Hi"), "profile": {"no_such": 1}},
        {"turns": asked(" ")}, {"turns": asked("Hi"), "profile": {"knowledge_base": "x" * 900_000}},
    ):  # fmt: skip
        await simulate(api, account, status=422, **body)


async def test_who_may_not_write_to_customers_may_not_simulate(api: Replica) -> None:
    account = await api.new_account(owner="ada")
    for user, role, status in (("vera", "viewer", 403), ("amir", "agent", 200), ("eve", None, 404)):
        if role:
            await api("PUT", f"/accounts/{account['id']}/members/{user}", json={"role": role})
        await simulate(api, account, user=user, status=status, turns=asked("Hi"))


async def test_an_account_has_so_many_answers_and_another_has_its_own(api: Replica) -> None:
    account, other = await api.new_account(), await api.new_account()
    body = {"profile": {"handover_keywords": ["hi"]}, "turns": asked("hi")}  # no call of the model
    for _ in range(MOST_ANSWERS):
        await simulate(api, account, **body)
    refused = await api.raw("POST", f"/bot/simulate?account_id={account['id']}", json=body)
    assert (refused.status_code, 0 < int(refused.headers["retry-after"]) <= 600) == (429, True)
    await simulate(api, other, **body)


async def test_while_the_model_is_away_the_answer_says_so(api: Replica) -> None:
    account = await api.new_account()
    await api.sandbox.add_fault("gemini", gemini="unavailable")
    refused = await api.refused(
        "POST", f"/bot/simulate?account_id={account['id']}", status=503, json={"turns": asked("Hi")}
    )
    assert refused["code"] == "gemini_unavailable"
    await api.sandbox.reset()
