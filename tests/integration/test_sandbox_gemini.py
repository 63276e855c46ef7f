"""The Gemini stand-in over a real socket: replies, refusals, and 200s without usable text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from app.core.http_client import Response, close_http_client, request
from app.sandbox.app import RunningSandbox, running_sandbox
from app.sandbox.client import SandboxClient
from app.sandbox.config import SandboxConfig
from app.sandbox.gemini_errors import ERRORS

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "gemini-3.5-flash-lite"
SYSTEM = "You are the assistant of Maison Levain.\n\n## Business\nOpening hours: Tuesday to Sunday 7:00-13:00"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[RunningSandbox]:
    async with running_sandbox(SandboxConfig(gemini_api_keys=("key-1", "key-2"))) as sandbox:
        yield sandbox
        await close_http_client()


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(server: RunningSandbox) -> SandboxClient:
    client = SandboxClient(server.url)
    await client.reset()
    return client


async def ask(sandbox: SandboxClient, text: str = "Are you open on Sunday?", *, key: str | None = "key-1",
              model: str = MODEL, **payload: Any) -> Response:  # fmt: skip
    body = {
        "systemInstruction": {"parts": [{"text": SYSTEM}]},
        "contents": [{"role": "user", "parts": [{"text": text}]}],
        **payload,
    }
    headers = {"x-goog-api-key": key} if key is not None else {}
    url = f"{sandbox.url}/v1beta/models/{model}:generateContent"
    return await request("POST", url, headers=headers, payload=body, timeout_seconds=5)


def text_of(response: Response) -> str:
    (part,) = response.json()["candidates"][0]["content"]["parts"]
    return str(part["text"])


async def test_answers_from_the_profile_with_usage(sandbox: SandboxClient) -> None:
    response = await ask(sandbox)
    assert response.status == 200
    assert "Sunday 7:00-13:00" in text_of(response)
    answer = response.json()
    assert answer["candidates"][0]["finishReason"] == "STOP"
    assert answer["candidates"][0]["content"]["role"] == "model"
    assert answer["modelVersion"] == MODEL
    usage = answer["usageMetadata"]
    parts = (usage["promptTokenCount"], usage["candidatesTokenCount"], usage["thoughtsTokenCount"])
    assert usage["totalTokenCount"] == sum(parts)
    assert min(parts) > 0


async def test_the_same_request_gives_the_same_answer(sandbox: SandboxClient) -> None:
    first, second, other = await ask(sandbox), await ask(sandbox), await ask(sandbox, "And on Monday?")
    assert first.body == second.body
    assert first.json()["responseId"] != other.json()["responseId"]


async def test_the_request_is_recorded_with_its_prompt(sandbox: SandboxClient) -> None:
    await ask(sandbox, "Bread? #m1")
    (entry,) = await sandbox.record(kind="generate")
    assert (entry["model"], entry["text"], entry["processed"]) == (MODEL, "Bread? #m1", True)
    assert entry["body"]["systemInstruction"]["parts"][0]["text"] == SYSTEM


@pytest.mark.parametrize(
    ("call", "status", "reason"),
    [
        ({"key": "wrong"}, 400, "INVALID_ARGUMENT"),
        ({"key": None}, 403, "PERMISSION_DENIED"),
        ({"model": "gemini-1.0-pro"}, 404, "NOT_FOUND"),
        ({"contents": [{"role": "model", "parts": [{"text": "x"}]}]}, 400, "INVALID_ARGUMENT"),
    ],
)
async def test_bad_requests_are_refused(sandbox: SandboxClient, call: dict[str, Any], status: int, reason: str) -> None:
    response = await ask(sandbox, **call)
    error = response.json()["error"]
    assert (response.status, error["code"], error["status"]) == (status, status, reason)
    (entry,) = await sandbox.record(kind="generate")
    assert not entry["processed"]


async def test_a_wrong_key_is_told_by_its_reason(sandbox: SandboxClient) -> None:
    (info, message) = (await ask(sandbox, key="wrong")).json()["error"]["details"]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert info["reason"] == "API_KEY_INVALID"
    assert message["locale"] == "en-US"


TOOLS = [
    {
        "functionDeclarations": [
            {
                "name": "fetch_colleague",
                "description": "Calls a colleague into the chat.",
                "parameters": {
                    "type": "OBJECT",
                    "properties": {
                        "why": {"type": "STRING", "enum": ["no_idea", "was_asked"]},
                        "say": {"type": "STRING"},
                    },
                },
            }
        ]
    }
]
EVERY_PARAMETER = {"temperature": 0.5, "thinkingConfig": {"thinkingLevel": "MINIMAL"}}


async def test_every_named_error_has_its_status_and_body(sandbox: SandboxClient) -> None:
    for name, error in ERRORS.items():
        await sandbox.clear_faults()
        await sandbox.add_fault("gemini", gemini=name)
        response = await ask(sandbox, generationConfig=EVERY_PARAMETER, tools=TOOLS)
        body = response.json()["error"]
        assert (response.status, body["status"]) == (error.http_status, error.status)
        assert "retry-after" not in response.headers


@pytest.mark.parametrize(("name", "quota"), [("quota_per_minute", "PerMinute"), ("quota_per_day", "PerDay")])
async def test_quotas_name_what_is_used_up_and_the_delay(sandbox: SandboxClient, name: str, quota: str) -> None:
    await sandbox.add_fault("gemini", gemini=name, retry_delay="7.5s")
    details = {detail["@type"].rsplit(".", 1)[1]: detail for detail in (await ask(sandbox)).json()["error"]["details"]}
    assert quota in details["QuotaFailure"]["violations"][0]["quotaId"]
    assert details["QuotaFailure"]["violations"][0]["quotaDimensions"]["model"] == MODEL
    assert details["RetryInfo"]["retryDelay"] == "7.5s"


@pytest.mark.parametrize(
    ("name", "finish_reason", "text"),
    [
        ("no_content", "STOP", None), ("no_parts", "STOP", None), ("blank_text", "STOP", " \n"),
        ("thought_only", "STOP", None), ("safety", "SAFETY", None), ("prohibited_content", "PROHIBITED_CONTENT", None),
        ("blocklist", "BLOCKLIST", None), ("spii", "SPII", None), ("recitation", "RECITATION", None),
        ("other", "OTHER", None), ("malformed_response", "MALFORMED_RESPONSE", None),
        ("max_tokens_empty", "MAX_TOKENS", None), ("max_tokens_partial", "MAX_TOKENS", "Our bakery opens at seven and"),
        ("unknown_finish_reason", "A_REASON_OF_TOMORROW", "Our bakery opens at seven."),
    ],
)  # fmt: skip
async def test_a_200_does_not_mean_there_is_text(
    sandbox: SandboxClient, name: str, finish_reason: str, text: str | None
) -> None:
    await sandbox.add_fault("gemini", gemini=name)
    response = await ask(sandbox)
    assert response.status == 200
    answer = response.json()
    (candidate,) = answer["candidates"]
    parts = candidate.get("content", {}).get("parts", [])
    assert candidate["finishReason"] == finish_reason
    assert next((part["text"] for part in parts if not part.get("thought")), None) == text
    assert answer["usageMetadata"]["promptTokenCount"] > 0


async def test_a_blocked_prompt_has_no_candidates(sandbox: SandboxClient) -> None:
    await sandbox.add_fault("gemini", gemini="blocked_prompt", count=1)
    answer = (await ask(sandbox)).json()
    assert answer["promptFeedback"] == {"blockReason": "PROHIBITED_CONTENT"}
    assert "candidates" not in answer
    await sandbox.add_fault("gemini", gemini="no_candidates")
    assert "candidates" not in (await ask(sandbox)).json()


async def test_a_reply_can_be_dictated(sandbox: SandboxClient) -> None:
    await sandbox.add_fault("gemini", gemini="reply", text="x" * 5000)
    assert text_of(await ask(sandbox)) == "x" * 5000


async def test_a_small_token_limit_cuts_the_text_or_leaves_none(sandbox: SandboxClient) -> None:
    def config(limit: int, level: str) -> dict[str, Any]:
        return {"maxOutputTokens": limit, "thinkingConfig": {"thinkingLevel": level}}

    partial = (await ask(sandbox, generationConfig=config(3, "MINIMAL"))).json()["candidates"][0]
    assert partial["finishReason"] == "MAX_TOKENS"
    assert len(partial["content"]["parts"][0]["text"]) == 12
    nothing = (await ask(sandbox, generationConfig=config(50, "LOW"))).json()["candidates"][0]
    assert nothing == {"content": {"role": "model"}, "finishReason": "MAX_TOKENS", "index": 0}


async def test_faults_can_single_out_one_key(sandbox: SandboxClient) -> None:
    await sandbox.add_fault("gemini", gemini="unavailable", match={"api_key": "key-2"})
    assert (await ask(sandbox, key="key-1")).status == 200
    assert (await ask(sandbox, key="key-2")).status == 503


async def test_other_methods_do_not_exist(sandbox: SandboxClient) -> None:
    url = f"{sandbox.url}/v1beta/models/{MODEL}:countTokens"
    assert (await request("POST", url, payload={}, timeout_seconds=5)).status == 404


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("thinking_level_unsupported", {}),
        ("thinking_minimal_unsupported", {"thinkingConfig": {"thinkingLevel": "LOW"}}),
        ("temperature_unsupported", {"thinkingConfig": {"thinkingLevel": "MINIMAL"}}),
    ],
)
async def test_a_model_refuses_a_parameter_only_of_a_request_that_has_it(
    sandbox: SandboxClient, name: str, config: dict[str, Any]
) -> None:
    await sandbox.add_fault("gemini", gemini=name, match={"model": MODEL})
    assert (await ask(sandbox, generationConfig=EVERY_PARAMETER)).status == 400
    assert (await ask(sandbox, generationConfig=config)).status == 200


async def test_a_function_is_asked_for_by_what_its_description_says(sandbox: SandboxClient) -> None:
    response = await ask(sandbox, "Puis-je parler à un humain ?", tools=TOOLS)
    (part,) = response.json()["candidates"][0]["content"]["parts"]
    assert part["functionCall"]["name"] == "fetch_colleague"
    assert part["functionCall"]["args"]["why"] == "was_asked"
    assert "collègue" in part["functionCall"]["args"]["say"]
    assert text_of(await ask(sandbox, "Are you open on Sunday?", tools=TOOLS))
    declaration = TOOLS[0]["functionDeclarations"][0] | {"description": "Looks a price up."}
    other = [{"functionDeclarations": [declaration]}]
    assert text_of(await ask(sandbox, "Puis-je parler à un humain ?", tools=other))


async def test_an_error_comes_with_200_or_in_an_array_if_the_rule_says_so(sandbox: SandboxClient) -> None:
    await sandbox.add_fault("gemini", gemini="unavailable", with_status_200=True, in_array=True)
    response = await ask(sandbox)
    assert (response.status, response.json()[0]["error"]["code"]) == (200, 503)


async def test_a_probe_is_recorded_apart_and_uses_up_no_rule(sandbox: SandboxClient) -> None:
    rule = await sandbox.add_fault("gemini", gemini="unavailable", count=1)
    assert (await ask(sandbox, generationConfig={"maxOutputTokens": 1})).status == 503
    assert (await sandbox.get_fault(rule))["fired"] == 0
    assert len(await sandbox.record(kind="probe")) == 1
    assert await sandbox.record(kind="generate") == []


async def test_a_model_can_be_looked_up(sandbox: SandboxClient) -> None:
    async def look_up(model: str, key: str) -> int:
        url = f"{sandbox.url}/v1beta/models/{model}"
        return (await request("GET", url, headers={"x-goog-api-key": key}, timeout_seconds=5)).status

    assert [await look_up(MODEL, "key-1"), await look_up("gone", "key-1"), await look_up(MODEL, "x")] == [200, 404, 400]
