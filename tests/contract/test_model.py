"""The model port on a real socket: an answer within the deadline, a refusal, or the truth about the outage."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from app.adapters import gemini
from app.adapters.gemini import GeminiModel
from app.core.circuit_breaker import BreakerPolicy, CircuitBreaker, State
from app.core.deadline import Deadline
from app.core.http_client import close_http_client
from app.domain.errors import DeadlineExceeded, ModelRefused, Unavailable
from app.domain.handover import CALL_PERSON
from app.domain.models import Generation, Prompt, Turn
from app.domain.ports import Model
from app.sandbox.app import running_sandbox
from app.sandbox.client import SandboxClient
from app.sandbox.config import SandboxConfig
from tests.support.fakes import FakeClock
from tests.support.patience import Within

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT = Prompt(
    "You answer for a bakery.", (Turn("user", "Hi"), Turn("model", "Hello!"), Turn("user", "When do you open?"))
)


@dataclass
class ModelCase:
    model: Model
    sandbox: SandboxClient
    breaker: CircuitBreaker
    clock: FakeClock

    async def ask(self, prompt: Prompt = PROMPT, *, seconds: float = 60.0) -> Generation:
        return await self.model.generate(prompt, deadline=Deadline.after(seconds))

    async def arrived(self) -> int:
        return len(await self.sandbox.record(kind="generate"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url() -> AsyncIterator[str]:
    async with running_sandbox(SandboxConfig(gemini_api_keys=("k3y",))) as running:
        yield running.url
        await close_http_client()


@pytest_asyncio.fixture(loop_scope="module")
async def world(url: str) -> ModelCase:
    sandbox = SandboxClient(url)
    await sandbox.reset()
    clock = FakeClock()
    breaker = CircuitBreaker("gemini_api", BreakerPolicy(5, 60.0), clock=clock)
    model = GeminiModel(
        base_url=url, api_key="k3y", default_model="gemini-3.5-flash-lite", breaker=breaker, clock=clock
    )
    return ModelCase(model, sandbox, breaker, clock)


async def test_an_answer_tells_its_text_model_and_tokens(world: ModelCase) -> None:
    await world.sandbox.add_fault("gemini", gemini="reply", text="We open at seven.")
    generation = await world.ask()
    assert (generation.text, generation.truncated) == ("We open at seven.", False)
    assert generation.model == "gemini-3.5-flash-lite"
    assert generation.input_tokens
    assert generation.output_tokens


async def test_the_stand_in_accepts_the_request_as_the_real_one_would(world: ModelCase) -> None:
    assert (await world.ask()).text
    await world.ask(Prompt("s", PROMPT.turns, model="gemini-2.5-flash", temperature=0.3, max_output_tokens=500))
    assert [entry["status"] for entry in await world.sandbox.record(kind="generate")] == [200, 200]


@pytest.mark.parametrize(
    "name", ["blocked_prompt", "safety", "prohibited_content", "blocklist", "spii", "recitation", "max_tokens_empty"]
)
async def test_a_refusal_is_final(world: ModelCase, name: str) -> None:
    await world.sandbox.add_fault("gemini", gemini=name)
    with pytest.raises(ModelRefused):
        await world.ask()
    assert await world.arrived() == 1
    assert world.breaker.tally.failed == 0


@pytest.mark.parametrize(
    "name",
    [
        "no_candidates",
        "no_content",
        "no_parts",
        "blank_text",
        "thought_only",
        "other",
        "malformed_response",
        "function_call",
        "empty_parts",
    ],
)
async def test_an_empty_answer_is_asked_for_once_more(world: ModelCase, name: str) -> None:
    await world.sandbox.add_fault("gemini", gemini=name, count=1)
    assert (await world.ask()).text
    assert await world.arrived() == 2
    await world.sandbox.add_fault("gemini", gemini=name)
    with pytest.raises(ModelRefused):
        await world.ask()
    assert await world.arrived() == 4


@pytest.mark.parametrize(("name", "truncated"), [("max_tokens_partial", True), ("unknown_finish_reason", False)])
async def test_a_text_is_used_however_it_ended(world: ModelCase, name: str, truncated: bool) -> None:
    await world.sandbox.add_fault("gemini", gemini=name)
    generation = await world.ask()
    assert generation.text.startswith("Our bakery opens at seven")
    assert generation.truncated is truncated


@pytest.mark.parametrize(
    "fault",
    [
        {"gemini": "internal"}, {"gemini": "unavailable"}, {"gemini": "deadline_exceeded"}, {"http_status": 502},
        {"action": "refuse"}, {"action": "drop_before"}, {"action": "drop_after"},
    ],
    ids=lambda fault: next(iter(fault.values())),
)  # fmt: skip
async def test_passing_trouble_is_survived(world: ModelCase, fault: dict[str, object]) -> None:
    await world.sandbox.add_fault("gemini", count=2, **fault)
    assert (await world.ask()).text
    assert await world.arrived() == 3
    assert world.breaker.tally.failed == 2


@pytest.mark.parametrize(
    "name",
    ["api_key_invalid", "failed_precondition", "credit_exhausted", "permission_denied", "not_found", "quota_per_day"],
)
async def test_lasting_trouble_is_told_at_once(world: ModelCase, name: str) -> None:
    await world.sandbox.add_fault("gemini", gemini=name)
    with pytest.raises(Unavailable) as caught:
        await world.ask()
    assert caught.value.dependency == "gemini"
    assert await world.arrived() == 1
    assert world.breaker.tally.failed == 1


async def test_a_request_of_ours_that_it_cannot_read_is_a_refusal(world: ModelCase) -> None:
    with pytest.raises(ModelRefused):
        await world.ask(Prompt("s", (Turn("user", "Hi"), Turn("model", "Hello!"))))
    assert world.breaker.tally.failed == 0


async def test_a_quota_opens_the_circuit_for_as_long_as_it_says(world: ModelCase) -> None:
    await world.sandbox.add_fault("gemini", gemini="quota_per_minute", retry_delay="17.5s", count=1)
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            await world.ask()
        assert caught.value.retry_after == 17.5
    assert await world.arrived() == 1
    world.clock.advance(17.5)
    assert (await world.ask()).text


async def test_an_outage_opens_the_circuit_after_five_calls(world: ModelCase) -> None:
    await world.sandbox.add_fault("gemini", gemini="unavailable")
    for _ in range(5):
        with pytest.raises(Unavailable):
            await world.ask()
    assert await world.arrived() == 5
    assert world.breaker.snapshot().state is State.OPEN


async def test_silence_is_bounded_by_the_deadline(world: ModelCase, within: Within) -> None:
    await world.sandbox.add_fault("gemini", action="hang_before")
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await world.ask(seconds=0.2)
    assert time.monotonic() - started < within(2)


async def test_silence_is_bounded_by_the_attempts_limit_and_tried_again(
    world: ModelCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gemini, "ATTEMPT_SECONDS", 0.2)
    await world.sandbox.add_fault("gemini", action="hang_before", count=1)
    assert (await world.ask()).text
    assert await world.arrived() == 2


async def test_a_cancelled_question_blames_nobody(world: ModelCase) -> None:
    await world.sandbox.add_fault("gemini", action="hang_before")
    asking = asyncio.create_task(world.ask())
    await world.sandbox.wait(1, kind="generate")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert (world.breaker.tally.failed, world.breaker.tally.ignored) == (0, 1)


async def test_probing_finds_a_wrong_address(world: ModelCase) -> None:
    assert isinstance(world.model, GeminiModel)
    assert await world.model.probe() == {}
    gone = GeminiModel(base_url="http://127.0.0.1:9", api_key="k3y", default_model="m", breaker=world.breaker)
    with pytest.raises(Unavailable):
        await gone.probe()


@pytest.mark.parametrize(
    ("name", "thinking"),
    [
        ("thinking_level_unsupported", None),
        ("thinking_config_unknown", None),
        ("thinking_minimal_unsupported", {"thinkingLevel": "LOW"}),
    ],
)
async def test_a_model_that_refuses_the_thinking_level_answers_all_the_same(
    world: ModelCase, name: str, thinking: object
) -> None:
    await world.sandbox.add_fault("gemini", gemini=name, match={"model": "gemini-2.5-flash"})
    prompt = Prompt("s", PROMPT.turns, model="gemini-2.5-flash")
    assert (await world.ask(prompt)).text
    assert (await world.ask(prompt)).text
    entries = await world.sandbox.record(kind="generate")
    assert [entry["status"] for entry in entries] == [400, 200, 200]
    assert entries[2]["body"]["generationConfig"].get("thinkingConfig") == thinking
    assert world.breaker.tally.failed == 0


@pytest.mark.parametrize("name", ["temperature_unsupported", "system_instruction_unsupported"])
async def test_a_model_that_refuses_another_parameter_answers_all_the_same(world: ModelCase, name: str) -> None:
    await world.sandbox.add_fault("gemini", gemini=name)
    assert (await world.ask(Prompt("s", PROMPT.turns, temperature=0.3))).text
    assert await world.arrived() == 2


async def test_an_answer_may_ask_for_a_function_that_was_declared_instead_of_a_text(world: ModelCase) -> None:
    asked = Turn("user", "Can I talk to a person?")
    generation = await world.ask(Prompt("s", (asked,), functions=(CALL_PERSON,)))
    (call,) = generation.calls
    assert (generation.text, call.name, call.arguments["reason"]) == ("", "call_person", "customer_asked")
    assert generation.output_tokens
    (entry,) = await world.sandbox.record(kind="generate")
    (declared,) = entry["body"]["tools"][0]["functionDeclarations"]
    assert declared["parameters"]["required"] == ["reason", "message_to_customer"]

    without = await world.ask(Prompt("s", (asked,)))
    assert (without.calls, bool(without.text)) == ((), True), "what is not declared cannot be asked for"


async def test_a_model_that_knows_no_functions_answers_all_the_same(world: ModelCase) -> None:
    await world.sandbox.add_fault("gemini", gemini="functions_unsupported")
    prompt = Prompt("s", (Turn("user", "Can I talk to a person?"),), functions=(CALL_PERSON,))
    for _ in range(2):
        generation = await world.ask(prompt)
        assert (bool(generation.text), generation.calls) == (True, ())
    assert [entry["status"] for entry in await world.sandbox.record(kind="generate")] == [400, 200, 200]
    assert world.breaker.tally.failed == 0


async def test_an_error_with_status_200_is_what_it_says(world: ModelCase) -> None:
    await world.sandbox.add_fault("gemini", gemini="unavailable", with_status_200=True, in_array=True, count=1)
    await world.sandbox.add_fault("gemini", gemini="error_beside_candidates", count=1)
    assert (await world.ask()).text
    assert await world.arrived() == 3
    assert world.breaker.tally.failed == 2


@pytest.mark.parametrize("name", ["lone_surrogate", "nul_character", "invalid_utf8"])
async def test_half_a_character_is_replaced(world: ModelCase, name: str) -> None:
    await world.sandbox.add_fault("gemini", gemini=name)
    assert (await world.ask()).text == "Good morning \ufffd we open at seven."
    assert world.breaker.tally.failed == 0


async def test_a_cut_answer_ends_with_its_last_sentence(world: ModelCase) -> None:
    await world.sandbox.add_fault("gemini", gemini="max_tokens_sentence")
    assert (await world.ask()).text == "We open at seven."


async def test_a_second_candidate_is_an_answer(world: ModelCase) -> None:
    await world.sandbox.add_fault("gemini", gemini="second_candidate")
    assert (await world.ask()).text == "We open at seven."


async def test_a_daily_quota_keeps_the_circuit_open_until_the_next_probe_only(world: ModelCase) -> None:
    await world.sandbox.add_fault("gemini", gemini="quota_per_day", count=1)
    with pytest.raises(Unavailable, match="daily quota"):
        await world.ask()
    world.clock.advance(30)
    assert (await world.ask()).text


async def test_probing_tells_that_no_customer_would_get_an_answer(world: ModelCase) -> None:
    assert isinstance(world.model, GeminiModel)
    await world.sandbox.add_fault("gemini", gemini="invalid_argument")
    with pytest.raises(Unavailable, match="HTTP 400 INVALID_ARGUMENT"):
        await world.model.probe()
    await world.sandbox.clear_faults()
    await world.sandbox.add_fault("gemini", gemini="thinking_level_unsupported")
    assert await world.model.probe() == {}
