"""Gemini: what is asked, and what each answer and error means for retries, the breaker and the caller."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import httpx
import pytest

from app.adapters.gemini import GeminiModel
from app.core.circuit_breaker import (
    BreakerPolicy,
    CircuitBreaker,
    CircuitBreakerOpenError,
    KeyedCircuitBreakers,
    State,
)
from app.core.deadline import Deadline
from app.core.errors import DeadlineExceeded, Unavailable
from app.domain.errors import ModelRefused
from app.domain.models import BotProfile, Function, FunctionCall, Prompt, Turn
from tests.support.fakes import FakeClock

PROMPT = Prompt("Be kind.", (Turn("user", "Hi"), Turn("model", "Hello!"), Turn("user", "Open today?")))
TEXT = {"candidates": [{"content": {"parts": [{"text": "Yes."}]}, "finishReason": "STOP"}]}


def spoken(text, reason="STOP"):
    return {"candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": reason}]}


def error(code, status, details=(), message="no"):
    return httpx.Response(
        code, json={"error": {"code": code, "message": message, "status": status, "details": list(details)}}
    )


KEY_INVALID = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}


def retry_info(delay):
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def quota(quota_id):
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota_id}]}


class GeminiCase:
    """A model whose upstream gives `answers` in turn, the last one for ever."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.breaker = CircuitBreaker("gemini_api", BreakerPolicy(5, 60.0), clock=self.clock)
        self.requests: list[httpx.Request] = []
        self.answers: list[object] = []
        self.seconds = 0.0
        """How long the upstream takes."""
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self.handle))
        policy = BreakerPolicy(5, 60.0, slow_call_seconds=12.0, minimum_calls=4)
        self.own = KeyedCircuitBreakers("gemini_api", policy, dependency="gemini", max_keys=3, clock=self.clock)
        self.model = GeminiModel(
            base_url="https://gemini.test", api_key="k3y", default_model="gemini-x", breaker=self.breaker,
            model_breakers=self.own, get_client=self.get_client, get_probe_client=self.get_client, clock=self.clock,
        )  # fmt: skip

    async def get_client(self):
        return self.client

    def handle(self, request):
        self.requests.append(request)
        self.clock.advance(self.seconds)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    async def ask(self, *answers, prompt=PROMPT, seconds=60.0):
        self.answers = list(answers)
        return await self.model.generate(prompt, deadline=Deadline.after(seconds, self.clock))

    def sent(self, index=0):
        return json.loads(self.requests[index].content)


@pytest.fixture
async def world():
    world = GeminiCase()
    yield world
    await world.client.aclose()


async def test_the_request_is_as_the_api_wants_it(world):
    await world.ask(TEXT)
    request = world.requests[0]
    assert str(request.url) == "https://gemini.test/v1beta/models/gemini-x:generateContent"
    assert request.headers["x-goog-api-key"] == "k3y"
    assert world.sent() == {
        "systemInstruction": {"parts": [{"text": "Be kind."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Hi"}]},
            {"role": "model", "parts": [{"text": "Hello!"}]},
            {"role": "user", "parts": [{"text": "Open today?"}]},
        ],
        "generationConfig": {"maxOutputTokens": 1024, "thinkingConfig": {"thinkingLevel": "MINIMAL"}},
    }


async def test_an_accounts_own_model_and_limits_are_used_and_cannot_leave_their_place_in_the_url(world):
    prompt = Prompt("", PROMPT.turns, model="models/../evil?x=", temperature=0.2, max_output_tokens=99)
    generation = await world.ask(TEXT, prompt=prompt)
    assert world.requests[0].url.raw_path == b"/v1beta/models/..%2Fevil%3Fx%3D:generateContent"
    assert world.sent()["generationConfig"]["temperature"] == 0.2
    assert world.sent()["generationConfig"]["maxOutputTokens"] == 99
    assert generation.model == "../evil?x="


async def test_an_answer_is_its_spoken_parts_with_what_it_cost(world):
    generation = await world.ask({
        "candidates": [{
            "content": {"parts": [{"text": "thinking", "thought": True}, {"text": " Yes, "}, {"text": "until six. "}]},
            "finishReason": "STOP",
        }],
        "usageMetadata": {"promptTokenCount": 12, "candidatesTokenCount": 3, "thoughtsTokenCount": 4},
        "modelVersion": "gemini-x-001",
    })  # fmt: skip
    assert generation.text == "Yes, until six."
    assert (generation.model, generation.truncated) == ("gemini-x-001", False)
    assert (generation.input_tokens, generation.output_tokens) == (12, 7)


@pytest.mark.parametrize(
    ("said", "sent"),
    [("We open at seven. There are bread and the pi", "We open at seven."), ("Bread and the pi", "Bread and the…")],
)
async def test_a_text_cut_by_the_token_limit_ends_with_whole_words_and_is_marked(world, said, sent):
    generation = await world.ask(spoken(said, "MAX_TOKENS"))
    assert (generation.text, generation.truncated) == (sent, True)
    assert len(world.requests) == 1


async def test_half_a_word_is_no_answer_and_blames_nobodys_words(world):
    with pytest.raises(ModelRefused) as caught:
        await world.ask(spoken("Brea", "MAX_TOKENS"))
    assert (caught.value.reason, caught.value.about_the_text) == ("MAX_TOKENS", False)


@pytest.mark.parametrize(
    ("parts", "text", "arguments"),
    [
        ([{"functionCall": {"name": "f", "args": {"a": 1}}}], "", {"a": 1}),
        ([{"text": "So. "}, {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "x"}], "So.", {}),
        ([{"functionCall": {"name": "f"}}, {"functionCall": {"name": "unknown"}}], "", {}),
        ([{"functionCall": {"name": "f", "args": "odd"}}], "", {}),
    ],
)
async def test_a_call_of_a_declared_function_is_an_answer(world, parts, text, arguments):
    prompt = replace(PROMPT, functions=(Function("f", "Does f.", {"type": "object", "properties": {}}),))
    answer = {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}
    found = await world.ask(answer, prompt=prompt)
    assert (found.text, found.calls) == (text, (FunctionCall("f", arguments),))
    assert len(world.requests) == 1


async def test_an_unknown_finish_reason_with_text_is_an_answer(world):
    answer = {"candidates": [{"content": {"parts": [{"text": "Yes"}]}, "finishReason": "FROM_THE_FUTURE"}]}
    assert (await world.ask(answer)).text == "Yes"


@pytest.mark.parametrize("reason", ["SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION"])
async def test_a_refusal_is_not_asked_again_and_not_the_services_fault(world, reason):
    answer = {"candidates": [{"content": {"parts": [{"text": "half a sent"}]}, "finishReason": reason}]}
    with pytest.raises(ModelRefused) as caught:
        await world.ask(answer)
    assert caught.value.reason == reason
    assert len(world.requests) == 1
    assert world.breaker.tally.failed == 0


async def test_a_blocked_prompt_is_a_refusal(world):
    with pytest.raises(ModelRefused) as caught:
        await world.ask({"promptFeedback": {"blockReason": "OTHER"}})
    assert caught.value.reason == "OTHER"
    assert len(world.requests) == 1


@pytest.mark.parametrize(
    "empty",
    [
        {},
        {"candidates": []},
        {"candidates": None},
        {"candidates": [{}]},
        {"candidates": [{"finishReason": "STOP"}]},
        {"candidates": [{"content": {}, "finishReason": "OTHER"}]},
        {"candidates": [{"content": {"parts": None}, "finishReason": "MALFORMED_RESPONSE"}]},
        {"candidates": [{"content": {"parts": [{"text": " \n"}]}, "finishReason": "STOP"}]},
        {"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}]}, "finishReason": "STOP"}]},
        {"candidates": ["odd"], "promptFeedback": "odd"},
        {"candidates": [{"content": {"parts": [{"functionCall": {"name": "x"}}]}, "finishReason": "STOP"}]},
        {"candidates": [{"content": {"parts": [{}, {"text": ""}, {"text": 5}]}, "finishReason": "STOP"}]},
        {"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]},
        {"candidates": [{"finishReason": 7}]},
    ],
)
async def test_an_answer_without_text_is_asked_for_once_more(world, empty):
    assert (await world.ask(empty, TEXT)).text == "Yes."
    with pytest.raises(ModelRefused):
        await world.ask(empty)
    assert len(world.requests) == 4
    assert world.breaker.tally.failed == 0


async def test_a_token_limit_that_left_no_text_is_not_asked_again(world):
    with pytest.raises(ModelRefused) as caught:
        await world.ask({"candidates": [{"finishReason": "MAX_TOKENS"}]})
    assert caught.value.reason == "MAX_TOKENS"
    assert len(world.requests) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        error(500, "INTERNAL"),
        error(503, "UNAVAILABLE"),
        error(504, "DEADLINE_EXCEEDED"),
        httpx.Response(502, text="<html>Bad gateway</html>"),
        httpx.Response(200, text="<html>not JSON</html>"),
        httpx.ConnectError("x"),
        httpx.ReadTimeout("x"),
        httpx.RemoteProtocolError("x"),
    ],
)
async def test_passing_trouble_is_retried_and_counts_against_the_service(world, trouble):
    assert (await world.ask(trouble, trouble, TEXT)).text == "Yes."
    assert (world.breaker.tally.failed, world.breaker.tally.ok) == (2, 1)
    assert len(world.clock.slept) == 2


@pytest.mark.parametrize(
    "trouble",
    [
        error(400, "INVALID_ARGUMENT", [KEY_INVALID]),
        error(400, "FAILED_PRECONDITION"),
        error(402, "RESOURCE_EXHAUSTED"),
        error(403, "PERMISSION_DENIED"),
        error(404, "NOT_FOUND"),
    ],
)
async def test_what_makes_it_unusable_for_everybody_counts_but_is_not_retried(world, trouble):
    with pytest.raises(Unavailable) as caught:
        await world.ask(trouble)
    assert caught.value.dependency == "gemini"
    assert len(world.requests) == 1
    assert world.breaker.tally.failed == 1


async def test_a_request_of_ours_it_cannot_read_is_a_refusal_that_counts_for_nothing(world):
    with pytest.raises(ModelRefused) as caught:
        await world.ask(error(400, "INVALID_ARGUMENT"))
    assert caught.value.reason == "HTTP 400 INVALID_ARGUMENT"
    assert len(world.requests) == 1
    assert world.breaker.tally.failed == 0


class TestAnAccountsOwnModel:
    """Its trouble must not stop the accounts that use the default."""

    PROMPT = Prompt("", PROMPT.turns, model="gemini-own")

    async def test_that_does_not_exist_is_that_accounts_problem(self, world):
        with pytest.raises(ModelRefused, match="gemini-own"):
            await world.ask(error(404, "NOT_FOUND"), prompt=self.PROMPT)
        assert world.breaker.tally.failed == 0

    async def test_that_has_used_up_its_quota_opens_nothing(self, world):
        with pytest.raises(Unavailable) as caught:
            await world.ask(error(429, "RESOURCE_EXHAUSTED", [retry_info("42s")]), prompt=self.PROMPT)
        assert caught.value.retry_after == 42
        assert world.breaker.snapshot().state is State.CLOSED

    OTHER = BotProfile("a", model="gemini-own")
    LONG = BotProfile("a", max_output_tokens=2048)

    async def fails(self, world, prompt, times=2):
        for _ in range(times):  # three attempts each
            with pytest.raises(Unavailable):
                await world.ask(error(503, "UNAVAILABLE"), prompt=prompt)

    @pytest.mark.parametrize("profile", [OTHER, LONG], ids=["another model", "longer answers"])
    async def test_that_fails_opens_a_circuit_of_its_own_and_nobody_elses(self, world, profile):
        prompt = replace(PROMPT, model=profile.model, max_output_tokens=profile.max_output_tokens)
        await self.fails(world, prompt)
        assert world.model.blocked_seconds(profile) > 0
        assert world.model.blocked_reason(profile).startswith("the model's own circuit open (failures: HTTP 503")
        with pytest.raises(CircuitBreakerOpenError):
            await world.ask(TEXT, prompt=prompt)
        assert world.model.blocked_seconds(BotProfile("b")) == 0
        assert world.model.blocked_seconds(BotProfile("b", model="gemini-third")) == 0
        assert world.breaker.snapshot().failure_count == 0
        assert (await world.ask(TEXT)).text == "Yes."

    async def test_of_which_the_default_is_one_by_any_of_its_names(self, world):
        for name in ("gemini-x", "models/gemini-x"):
            await self.fails(world, replace(PROMPT, model=name, max_output_tokens=1024), times=1)
        assert world.breaker.snapshot().state is State.OPEN
        assert world.model.blocked_seconds(BotProfile("b", model="models/gemini-x")) > 0
        assert len(world.own) == 0

    async def test_that_fails_leaves_the_others_their_retries(self, world):
        for number in range(30):
            with pytest.raises(Unavailable):
                await world.ask(error(503, "UNAVAILABLE"), prompt=replace(PROMPT, model=f"gemini-{number}"))
        assert (await world.ask(error(503, "UNAVAILABLE"), TEXT)).text == "Yes."
        assert len(world.own) == 3, "the least recently used ones are forgotten"

    async def test_that_is_slow_opens_a_circuit_of_its_own(self, world):
        prompt = replace(PROMPT, max_output_tokens=2048)
        world.seconds = 13.0
        for _ in range(4):
            await world.ask(TEXT, prompt=prompt)
        assert world.model.blocked_reason(self.LONG) == "the model's own circuit open (slow calls)"
        assert world.model.blocked_seconds(BotProfile("b")) == 0

    async def test_whose_quota_names_a_delay_waits_alone(self, world):
        with pytest.raises(Unavailable):
            await world.ask(error(429, "RESOURCE_EXHAUSTED", [retry_info("42s")]), prompt=self.PROMPT)
        assert 41 < world.model.blocked_seconds(BotProfile("a", model=self.PROMPT.model)) <= 42
        assert world.model.blocked_seconds(BotProfile("b")) == 0

    async def test_gets_room_to_think_beside_the_length_of_its_answer(self, world):
        complaint = error(400, "INVALID_ARGUMENT", message="thinking level MINIMAL is not supported. Use LOW.")
        await world.ask(complaint, TEXT, prompt=replace(PROMPT, model="gemini-own", max_output_tokens=500))
        assert world.sent(0)["generationConfig"]["maxOutputTokens"] == 500
        assert world.sent(1)["generationConfig"]["maxOutputTokens"] == 500 + 4096


async def test_a_quota_with_a_delay_opens_the_circuit_for_that_long(world):
    limited = error(429, "RESOURCE_EXHAUSTED", [quota("GenerateRequestsPerMinutePerProject"), retry_info("42.5s")])
    with pytest.raises(Unavailable) as caught:
        await world.ask(limited)
    assert caught.value.retry_after == 42.5
    assert len(world.requests) == 1
    with pytest.raises(CircuitBreakerOpenError) as refused:
        await world.ask(TEXT)
    assert refused.value.retry_after == 42.5
    world.clock.advance(42.5)
    assert (await world.ask(TEXT)).text == "Yes."


async def test_a_daily_quota_is_not_waited_for(world):
    used_up = error(429, "RESOURCE_EXHAUSTED", [quota("GenerateRequestsPerDayPerProject"), retry_info("3s")])
    with pytest.raises(Unavailable) as caught:
        await world.ask(used_up)
    assert caught.value.retry_after == 3600
    assert str(caught.value) == "gemini: HTTP 429 RESOURCE_EXHAUSTED (daily quota)"
    assert world.breaker.snapshot().retry_after == 30, "the next probe of the upstream"


@pytest.mark.parametrize(
    "details",
    [
        [quota("GenerateRequestsPerDayPerProject")],
        [quota("GenerateRequestsPerMinutePerProject"), retry_info("3600s")],
        [retry_info("7201.5s")],
    ],
)
async def test_a_quota_for_long_keeps_the_circuit_open_until_the_next_probe_each_time(world, details):
    for _ in range(3):
        with pytest.raises(Unavailable) as caught:
            await world.ask(error(429, "RESOURCE_EXHAUSTED", details))
        assert caught.value.retry_after >= 3600
        assert world.breaker.snapshot().retry_after == 30
        world.clock.advance(30)
    assert (await world.ask(TEXT)).text == "Yes."


async def test_a_limit_without_a_delay_is_retried_with_backoff(world):
    assert (await world.ask(error(429, "RESOURCE_EXHAUSTED"), TEXT)).text == "Yes."


async def test_the_deadline_bounds_everything(world):
    with pytest.raises(DeadlineExceeded):
        await world.ask(TEXT, seconds=0)
    assert world.requests == []


async def test_neither_key_nor_text_gets_into_errors_or_logs(world, caplog):
    caplog.set_level(logging.DEBUG, logger="app")
    with pytest.raises(Unavailable) as caught:
        await world.ask(error(500, "INTERNAL", message="prompt was: Open today?"))
    assert "Retrying app.adapters.gemini.GeminiModel._post in " in caplog.text
    for secret in ("k3y", "Open today?", "Be kind"):
        assert secret not in caplog.text
        assert secret not in str(caught.value)


THINKING_REFUSED = error(400, "INVALID_ARGUMENT", message="Thinking level is not supported for this model.")


class TestARefusedParameter:
    @pytest.mark.parametrize(
        "complaint",
        [
            "Thinking level is not supported for this model.",
            "Thinking level MINIMAL is not supported for this model. Please retry with other thinking level.",
            "Unable to submit request because thinking_level MINIMAL is not supported by this model.",
            "Invalid JSON payload received. Unknown name \"thinkingConfig\" at 'generation_config': Cannot find field.",
            "Unknown name \"thinkingLevel\" at 'generation_config.thinking_config': Cannot find field.",
        ],
    )
    async def test_is_left_out_at_once_and_for_a_day(self, world, complaint):
        refused = error(400, "INVALID_ARGUMENT", message=complaint)
        assert (await world.ask(refused, TEXT)).text == "Yes."
        assert "thinkingConfig" not in world.sent(1)["generationConfig"]
        assert world.sent(1)["generationConfig"]["maxOutputTokens"] > 1024, "thinking needs room of its own"
        await world.ask(TEXT)
        assert "thinkingConfig" not in world.sent(2)["generationConfig"]
        world.clock.advance(86_400)
        await world.ask(TEXT)
        assert "thinkingConfig" in world.sent(3)["generationConfig"]
        assert world.breaker.tally.failed == 0

    async def test_is_told_by_the_violated_field_too(self, world):
        violation = {"fieldViolations": [{"field": "generation_config.thinking_config", "description": "no"}]}
        assert (await world.ask(error(400, "INVALID_ARGUMENT", [violation]), TEXT)).text == "Yes."

    @pytest.mark.parametrize(
        ("complaint", "level"),
        [
            ("MINIMAL is not supported; use LOW", "LOW"),
            ("thinking_level must be one of HIGH, MEDIUM", "MEDIUM"),
            ("Thinking level MINIMAL is not supported. Supported: low, high.", "LOW"),
        ],
    )
    async def test_takes_the_lowest_level_that_is_named(self, world, complaint, level):
        await world.ask(error(400, "INVALID_ARGUMENT", message=complaint), TEXT)
        assert world.sent(1)["generationConfig"]["thinkingConfig"] == {"thinkingLevel": level}

    async def test_several_are_left_out_one_after_the_other(self, world):
        prompt = Prompt("Be kind.", PROMPT.turns, temperature=0.2, max_output_tokens=10**6)
        complaints = [
            "temperature is not supported for this model", "MINIMAL is not supported; use LOW",
            "thinking_level LOW is not supported", "maxOutputTokens: the supported range is from 1 to 65537",
        ]  # fmt: skip
        refused = [error(400, "INVALID_ARGUMENT", message=complaint) for complaint in complaints]
        assert (await world.ask(*refused, TEXT, prompt=prompt)).text == "Yes."
        assert list(world.sent(4)["generationConfig"]) == ["maxOutputTokens"]

    async def test_an_instruction_it_does_not_take_goes_before_the_first_turn(self, world):
        refused = error(400, "INVALID_ARGUMENT", message="Developer instruction is not enabled for models/gemma-3")
        assert (await world.ask(refused, TEXT)).text == "Yes."
        assert "systemInstruction" not in world.sent(1)
        assert world.sent(1)["contents"][0]["parts"] == [{"text": "Be kind."}, {"text": "Hi"}]

    async def test_is_remembered_for_that_model_only(self, world):
        await world.ask(THINKING_REFUSED, TEXT)
        await world.ask(TEXT, prompt=Prompt("", PROMPT.turns, model="gemini-other"))
        assert "thinkingConfig" in world.sent(2)["generationConfig"]

    async def test_a_complaint_that_never_ends_is_a_refusal(self, world):
        with pytest.raises(ModelRefused):
            await world.ask(THINKING_REFUSED)
        assert len(world.requests) == 2

    async def test_what_it_does_not_name_is_not_asked_again(self, world):
        with pytest.raises(ModelRefused):
            await world.ask(error(400, "INVALID_ARGUMENT", message="Request contains an invalid argument."))
        assert len(world.requests) == 1


class TestAnErrorWithStatus200:
    @pytest.mark.parametrize(
        "body",
        [
            {"error": {"code": 503, "status": "UNAVAILABLE", "message": "x"}},
            [{"error": {"code": 503, "status": "UNAVAILABLE", "message": "x"}}],
            {"error": {"code": "503", "message": "x"}},
            {"error": {"code": 14, "status": "UNAVAILABLE"}},
            {"error": {"status": "UNAVAILABLE"}, "candidates": TEXT["candidates"]},
            {"error": "overloaded"},
        ],
    )
    async def test_is_passing_trouble_if_its_own_status_is(self, world, body):
        assert (await world.ask(httpx.Response(200, json=body), TEXT)).text == "Yes."
        assert world.breaker.tally.failed == 1

    async def test_is_a_quota_a_refusal_or_a_wrong_key_as_it_says(self, world):
        def with_200(response):
            return httpx.Response(200, content=response.content)

        with pytest.raises(ModelRefused):
            await world.ask(with_200(error(400, "INVALID_ARGUMENT")))
        with pytest.raises(Unavailable, match="HTTP 400 API_KEY_INVALID"):
            await world.ask(with_200(error(400, "INVALID_ARGUMENT", [KEY_INVALID])))
        with pytest.raises(Unavailable) as caught:
            await world.ask(with_200(error(429, "RESOURCE_EXHAUSTED", [retry_info("42s")])))
        assert caught.value.retry_after == 42

    async def test_an_array_is_read_with_an_error_status_too(self, world):
        body = [{"error": {"code": 400, "status": "INVALID_ARGUMENT", "details": [KEY_INVALID]}}]
        with pytest.raises(Unavailable, match="HTTP 400 API_KEY_INVALID"):
            await world.ask(httpx.Response(400, json=body))

    async def test_an_array_of_one_answer_is_that_answer(self, world):
        assert (await world.ask(httpx.Response(200, json=[TEXT]))).text == "Yes."


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (rb"Good \ud83d morning", "Good \ufffd morning"),
        (rb"Good \udc4d\ud83d morning", "Good \ufffd\ufffd morning"),
        (rb"Good \u0000 morning", "Good \ufffd morning"),
        (b"Good \xff morning", "Good \ufffd morning"),
        (rb"Good \ud83d\ude00 \ud83d", "Good \U0001f600 \ufffd"),
    ],
)
async def test_half_a_character_breaks_nothing(world, raw, text):
    body = b'{"candidates":[{"content":{"parts":[{"text":"%b"}]},"finishReason":"STOP"}]}' % raw
    assert (await world.ask(httpx.Response(200, content=body))).text == text
    assert world.breaker.tally.failed == 0


async def test_of_several_candidates_one_with_text_is_the_answer(world):
    safety = {"finishReason": "SAFETY"}
    assert (await world.ask({"candidates": [safety, *TEXT["candidates"]]})).text == "Yes."
    cut = spoken("No wa", "MAX_TOKENS")["candidates"]
    assert (await world.ask({"candidates": [*cut, *TEXT["candidates"]]})).text == "Yes."
    with pytest.raises(ModelRefused, match="SAFETY"):
        await world.ask({"candidates": [{"finishReason": "STOP"}, safety]})


async def test_before_an_empty_answer_is_asked_for_again_there_is_a_pause(world):
    with pytest.raises(ModelRefused):
        await world.ask({"candidates": [{"finishReason": "STOP"}]})
    (pause,) = world.clock.slept
    assert 0 <= pause <= 2
    assert len(world.requests) == 2


async def test_the_pause_fits_the_deadline_or_there_is_no_second_try(world):
    model = GeminiModel(
        base_url="https://gemini.test", api_key="k3y", default_model="gemini-x", breaker=world.breaker,
        get_client=world.get_client, get_probe_client=world.get_client,
        clock=world.clock, uniform=lambda: 1.0,
    )  # fmt: skip
    world.answers = [{"candidates": [{"finishReason": "STOP"}]}]
    with pytest.raises(ModelRefused):
        await model.generate(PROMPT, deadline=Deadline.after(1.9, world.clock))
    assert (len(world.requests), world.clock.slept) == (1, [])


class TestProbe:
    async def test_asks_for_one_token_with_the_real_parameters(self, world):
        world.answers = [spoken("pong", "MAX_TOKENS")]
        assert await world.model.probe() == {}
        assert world.requests[0].url.path == "/v1beta/models/gemini-x:generateContent"
        assert world.sent()["generationConfig"] == {
            "maxOutputTokens": 1,
            "thinkingConfig": {"thinkingLevel": "MINIMAL"},
        }
        assert len(world.requests[0].content) < 300

    async def test_only_looks_the_model_up_while_answers_prove_the_rest(self, world):
        await world.ask(TEXT)
        world.answers = [{"name": "models/gemini-x"}]
        assert await world.model.probe() == {}
        assert (world.requests[1].method, world.requests[1].url.path) == ("GET", "/v1beta/models/gemini-x")
        world.clock.advance(600)
        world.answers = [TEXT]
        await world.model.probe()
        assert world.requests[2].method == "POST"

    async def test_asks_again_as_soon_as_a_customer_was_refused(self, world):
        await world.ask(TEXT)
        with pytest.raises(ModelRefused):
            await world.ask(error(400, "INVALID_ARGUMENT"))
        with pytest.raises(Unavailable, match="HTTP 400 INVALID_ARGUMENT"):
            await world.model.probe()

    async def test_is_well_with_a_model_that_takes_fewer_parameters(self, world):
        world.answers = [THINKING_REFUSED, TEXT]
        assert await world.model.probe() == {}
        assert "thinkingConfig" not in world.sent(1)["generationConfig"]

    @pytest.mark.parametrize(
        "trouble",
        [
            error(400, "INVALID_ARGUMENT", [KEY_INVALID]),
            error(404, "NOT_FOUND"),
            httpx.Response(502),
            httpx.ReadTimeout("x"),
        ],
    )
    async def test_says_what_is_wrong_past_the_breaker(self, world, trouble):
        world.breaker.force_open(who="test", why="test")
        world.answers = [trouble]
        with pytest.raises(Unavailable):
            await world.model.probe()


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (400, {"status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}, "HTTP 400 API_KEY_INVALID"),
        (
            403,
            {"status": "PERMISSION_DENIED", "details": [{"reason": "SERVICE_DISABLED"}]},
            "HTTP 403 SERVICE_DISABLED",
        ),
        (403, {"status": "PERMISSION_DENIED", "details": [{"retryDelay": "1s"}]}, "HTTP 403 PERMISSION_DENIED"),
        (403, {"status": "PERMISSION_DENIED", "details": [{"reason": "not a code"}]}, "HTTP 403 PERMISSION_DENIED"),
        (401, {}, "HTTP 401"),
    ],
)
async def test_an_error_and_the_circuit_name_googles_own_code(world, status, error, words):
    with pytest.raises(Unavailable) as caught:
        await world.ask(httpx.Response(status, json={"error": error}))
    assert str(caught.value) == f"gemini: {words}"
    assert world.breaker.snapshot().last_failure == words


async def test_the_probe_names_what_is_wrong_for_the_check_up(world):
    world.answers = [
        httpx.Response(400, json={"error": {"status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}})
    ]
    with pytest.raises(Unavailable, match="HTTP 400 API_KEY_INVALID"):
        await world.model.probe()


async def test_an_answer_that_was_empty_at_first_costs_both(world):
    usage = {"usageMetadata": {"promptTokenCount": 100, "candidatesTokenCount": 5, "thoughtsTokenCount": 20}}
    generation = await world.ask(spoken("") | usage, TEXT | usage)
    assert (generation.input_tokens, generation.output_tokens) == (200, 50)
