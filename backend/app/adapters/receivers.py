"""Events on their way to other systems: one signed POST, bounded, to a public address."""

from __future__ import annotations

import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import orjson

from app.core.egress import url_problem
from app.core.http_client import (
    ForbiddenHost,
    GetClient,
    HttpError,
    Response,
    get_http_client_for_strangers,
    parse_retry_after,
    request,
)
from app.domain.endpoints import ANSWER_CHARACTERS, Answer, OutboxEvent, Outcome
from app.domain.webhook_signature import signed_headers

DELIVERY_SECONDS = 10.0
MAX_ANSWER_BYTES = 65_536
PORTS = (443, 8443)
"""Where receivers listen: what infra/k8s/network.yaml lets out to the internet."""


class HttpReceiver:
    """The port `Receiver`. No redirect is followed: it would lead past what was judged."""

    def __init__(
        self,
        *,
        may_be_private: bool = False,
        timeout_seconds: float = DELIVERY_SECONDS,
        get_client: GetClient = get_http_client_for_strangers,
    ) -> None:
        self._may_be_private = may_be_private
        self._timeout_seconds = timeout_seconds
        self._get_client = get_client

    def problem_with(self, url: str) -> str | None:
        if problem := url_problem(url, may_be_private=self._may_be_private):
            return problem
        if not self._may_be_private and urlsplit(url).port not in (None, *PORTS):
            return f"has a port that is none of {', '.join(map(str, PORTS))}"
        return None

    async def deliver(self, url: str, event: OutboxEvent, *, secrets: Sequence[str]) -> Answer:
        # It may have been stored under another rule. One on another port, from before `PORTS`, still gets its events.
        if url_problem(url, may_be_private=self._may_be_private):
            return Answer(Outcome.FORBIDDEN_ADDRESS, None, 0)
        body = orjson.dumps(event.envelope())
        started = time.perf_counter()
        outcome, response = await self._post(url, event, body, secrets)
        ms = round((time.perf_counter() - started) * 1000)
        if response is None:
            return Answer(outcome, None, ms)
        text = response.body[: 4 * ANSWER_CHARACTERS].decode(errors="replace")[:ANSWER_CHARACTERS]
        retry_after = parse_retry_after(response.headers.get("retry-after"))
        return Answer(outcome, response.status, ms, text, retry_after)

    async def _post(
        self, url: str, event: OutboxEvent, body: bytes, secrets: Sequence[str]
    ) -> tuple[Outcome, Response | None]:
        try:
            response = await request(
                "POST",
                url,
                timeout_seconds=self._timeout_seconds,
                headers=signed_headers(event.id, body, secrets=secrets, at=int(time.time())),
                payload=orjson.Fragment(body),  # as it was signed
                max_body_bytes=MAX_ANSWER_BYTES,
                cuts_body=True,
                get_client=self._get_client,
            )
        except ForbiddenHost:
            return Outcome.FORBIDDEN_ADDRESS, None
        except HttpError as exc:
            return (Outcome.TIMEOUT if isinstance(exc.__cause__, TimeoutError) else Outcome.UNREACHABLE), None
        return (Outcome.DELIVERED if 200 <= response.status < 300 else Outcome.REFUSED), response
