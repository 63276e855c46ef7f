"""Gemini: what is asked, and what each answer and error means for retries, the breaker and the caller."""

from __future__ import annotations

import json
import logging

import httpx
import pytest

from app.adapters.gemini import GeminiModel
from app.core.circuit_breaker import BreakerPolicy, CircuitBreaker, CircuitBreakerOpenError, State
from app.core.deadline import Deadline
from app.core.errors import DeadlineExceeded, Unavailable
from app.domain.errors import ModelRefused
from app.domain.models import Prompt, Turn
from fakes import FakeClock

PROMPT = Prompt("Be kind.", (Turn("user", "Hi"), Turn("model", "Hello!"), Turn("user", "Open today?")))
TEXT = {"candidates": [{"content": {"parts": [{"text": "Yes."}]}, "finishReason": "STOP"}]}


def error(code, status, details=(), message="no"):
    return httpx.Response(
        code, json={"error": {"code": code, "message": message, "status": status, "details": list(details)}}
    )


KEY_INVALID = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}


def retry_info(delay):
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def quota(quota_id):
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota_id}]}


class World:
    """A model whose upstream gives `answers` in turn, the last one for ever."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.breaker = CircuitBreaker("gemini_api", BreakerPolicy(5, 60.0), clock=self.clock)
        self.requests: list[httpx.Request] = []
        self.answers: list[object] = []
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self.handle))
        self.model = GeminiModel(
            base_url="https://gemini.test", api_key="k3y", default_model="gemini-x", breaker=self.breaker,
            get_client=self.get_client, clock=self.clock,
        )  # fmt: skip

    async def get_client(self):
        return self.client

    def handle(self, request):
        self.requests.append(request)
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
    world = World()
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
    assert generation.model == "models/../evil?x="


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


async def test_a_text_cut_by_the_token_limit_is_used_and_marked(world):
    answer = {"candidates": [{"content": {"parts": [{"text": "Partly"}]}, "finishReason": "MAX_TOKENS"}]}
    generation = await world.ask(answer)
    assert (generation.text, generation.truncated) == ("Partly", True)


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
    assert caught.value.reason == "INVALID_ARGUMENT"
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
    assert world.breaker.snapshot().retry_after == 600, "the circuit looks again every ten minutes"


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


class TestProbe:
    async def test_asks_for_the_default_model_without_spending_tokens(self, world):
        world.answers = [{"name": "models/gemini-x"}]
        assert await world.model.probe() == {}
        assert (world.requests[0].method, world.requests[0].url.path) == ("GET", "/v1beta/models/gemini-x")

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
