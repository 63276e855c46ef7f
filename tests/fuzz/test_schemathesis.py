"""schemathesis against a whole replica: whatever it makes up from the OpenAPI document, no answer of 5xx and none that
the document does not describe. A short look in every run of the suite; `make fuzz` looks for as long as it is told."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from app.sandbox import webhooks as wa
from app.sandbox.webhooks import encode_like_meta, signed_headers
from tests.support.replica import NUMBER, NUMBERS_TOKEN, Replica, one_replica, token_of
from tests.support.serving import APP_SECRET, OPERATOR_KEY, served

SECONDS = int(os.environ.get("FUZZ_SECONDS", "30"))
IS_LONG = "FUZZ_SECONDS" in os.environ
SPARE_SECONDS = 120
EXCEPTIONS = """
# A path taken from an earlier answer is judged in its percent-encoded form: a ":" in it is taken for a wrong "%3A"
# (https://github.com/schemathesis/schemathesis/issues/2983).
# What an earlier answer has as null is left out, required or not.
[phases.stateful]
checks.negative_data_rejection.enabled = false
checks.positive_data_acceptance.enabled = false

# A schema cannot say that a key which was used with one text is refused with another.
[[operations]]
include-name = "POST /conversations/{conversation_id}/messages"
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "422"]

# The last turn must be the customer's; and Gemini is away as soon as its circuit was forced open.
[[operations]]
include-name = "POST /bot/simulate"
checks.positive_data_acceptance.enabled = false
checks.not_a_server_error.enabled = false

# Nor can it say that a URL leads to public addresses.
[[operations]]
include-path-regex = "^/accounts/[^/]+/webhooks"
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "422"]

# Nor which credentials go together, nor how often they may be tried.
[[operations]]
include-path-regex = "^/session"
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "409", "422", "429"]

# An answer that does not end.
[[operations]]
include-name = "GET /events"
enabled = false
"""


@pytest.fixture
async def api(valkey_url: str, store_url: str) -> AsyncIterator[Replica]:
    async with one_replica(valkey_url, store_url) as api:
        yield api


async def schemathesis(
    url: str,
    folder: Path,
    *options: str,
    bearer: str,
    seconds: int,
    parameters: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Its exit code and what it says. `parameters` are always these instead of made up."""
    config = folder / "schemathesis.toml"
    lines = [f'{name} = "{value}"' for name, value in (parameters or {}).items()]
    config.write_text("\n".join(["[parameters]", *lines, "", EXCEPTIONS]), encoding="utf-8")
    command = [
        Path(sys.executable).with_name("schemathesis"), "--config-file", config, "run", f"{url}/openapi.json",
        "-H", f"Authorization: Bearer {bearer}", "--max-time", str(seconds), "--continue-on-failure",
        "--generation-database", "none", "--request-timeout", "10", "--suppress-health-check", "all", "--no-color",
        *(() if IS_LONG else ("--seed", "1")), *options,
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(seconds + SPARE_SECONDS):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


async def failures_of_the_server(api: Replica) -> float:
    """Answers of 5xx so far, by the replica's own count; the simulator's tell of Gemini."""
    text = (await api.raw("GET", "/metrics")).text
    wrong = r'^chorus_http_request_seconds_count\{(?!.*route="/bot/simulate").*status="5\d\d"\} ([\d.]+)$'
    counts = re.findall(wrong, text, re.MULTILINE)
    return sum(map(float, counts))


async def a_conversation(api: Replica, account_id: str) -> str:
    person = wa.Person("33612345678", "Amina")
    raw = encode_like_meta(wa.envelope(wa.messages_change(wa.Business(NUMBER), [wa.text(person, "Hi")], [person])))
    delivered = await api.http.post(f"{api.url}/webhook/whatsapp", content=raw, headers=signed_headers(APP_SECRET, raw))
    assert delivered.status_code == 200
    async with asyncio.timeout(20):
        while not (page := await api("GET", f"/conversations?account_id={account_id}"))["items"]:
            await asyncio.sleep(0.05)
    return str(page["items"][0]["id"])


async def looked_at(api: Replica, folder: Path, **how: Any) -> None:
    before = await failures_of_the_server(api)
    code, output = await schemathesis(api.url, folder, seconds=SECONDS // 2, **how)
    if IS_LONG:
        sys.stdout.write(output[output.find("API Operations:") :])
    assert code == 0, output
    assert re.search(r"(\d{2,}) generated", output), output
    assert await failures_of_the_server(api) == before


@pytest.mark.timeout(SECONDS + SPARE_SECONDS)
async def test_whatever_an_operator_sends_the_answer_is_one_of_the_document(api: Replica, tmp_path: Path) -> None:
    await looked_at(api, tmp_path, bearer=OPERATOR_KEY)


@pytest.mark.timeout(SECONDS + SPARE_SECONDS)
async def test_whatever_a_member_sends_the_answer_is_one_of_the_document(api: Replica, tmp_path: Path) -> None:
    account = await api.new_account(owner="ada", phone_number_id=NUMBER, access_token=NUMBERS_TOKEN)
    known = {"account_id": account["id"], "conversation_id": await a_conversation(api, account["id"])}
    await looked_at(api, tmp_path, bearer=token_of("ada"), parameters=known)


async def test_a_fault_would_be_found(tmp_path: Path) -> None:
    app = FastAPI()

    @app.get("/half")
    def half(number: int) -> dict[str, int]:
        return {"half": 1 // number}

    async with served(app) as url:
        code, output = await schemathesis(url, tmp_path, "--max-failures", "1", bearer="any", seconds=20)
    assert code == 1, output
    assert "Server error" in output
