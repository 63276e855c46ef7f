"""How surely a customer who asks for a person gets one, and others do not: sets of messages in five languages
(tests/cases/handover), through the prompt, the adapter and the stand-in for Gemini, which decides by what the
function's description says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from app.adapters.gemini import GeminiModel
from app.core.deadline import Deadline
from app.core.http_client import close_http_client
from app.demo.bakery import BAKERY
from app.domain.handover import person_called
from app.domain.models import BotProfile, HandoverReason
from app.domain.ports import Model
from app.domain.prompt import build_prompt
from app.sandbox.app import running_sandbox
from app.sandbox.config import SandboxConfig

CASES = Path(__file__).parents[1] / "cases/handover"
PROFILE = BotProfile("a1", **BAKERY)


@pytest_asyncio.fixture
async def model() -> AsyncIterator[Model]:
    async with running_sandbox(SandboxConfig()) as sandbox:
        yield GeminiModel(base_url=sandbox.url, api_key="k", default_model="gemini-3.5-flash-lite")
        await close_http_client()


def cases(name: str, count: int) -> list[str]:
    sets = json.loads((CASES / f"{name}.json").read_text(encoding="utf-8"))
    assert set(sets) == {"en", "fr", "es", "pt", "ar"}
    texts = [text for each in sets.values() for text in each]
    assert len(set(texts)) == count
    return texts


async def flagged(model: Model, texts: list[str]) -> list[str]:
    """Those for which the model calls a person because the customer asked for one."""
    places = asyncio.Semaphore(8)

    async def is_flagged(text: str) -> bool:
        async with places:
            prompt = build_prompt(PROFILE, "Amina", (), [text])
            called = person_called(await model.generate(prompt, deadline=Deadline.after(30)))
            return called is not None and called.reason is HandoverReason.CUSTOMER_ASKED and bool(called.message)

    found = await asyncio.gather(*map(is_flagged, texts))
    return [text for text, is_found in zip(texts, found, strict=True) if is_found]


async def test_of_sixty_ways_to_ask_for_a_person_at_least_95_percent_call_one(model: Model) -> None:
    texts = cases("asks_for_a_person", 60)
    found = await flagged(model, texts)
    assert len(found) >= 0.95 * len(texts), [text for text in texts if text not in found]


async def test_of_two_hundred_ordinary_messages_at_most_3_percent_call_a_person(model: Model) -> None:
    texts = cases("ordinary", 200)
    found = await flagged(model, texts)
    assert len(found) <= 0.03 * len(texts), found
