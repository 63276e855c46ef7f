"""Speaking to a sandbox's control API: what tests, the demo and the bench steer it with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import orjson

from app.core.http_client import GetClient, Response, get_http_client, get_http_client_for_media, request
from app.sandbox.webhooks import JsonObject

TIMEOUT_SECONDS = 10.0
MAX_ANSWER_BYTES = 512 * 1024 * 1024


class SandboxRefused(Exception):
    """The control API said no; the text is its message."""


class SandboxClient:
    """Knows nothing but the base URL. Network failures come as `core.http_client.HttpError`."""

    def __init__(self, url: str, *, get_client: GetClient = get_http_client) -> None:
        self.url = url.rstrip("/")
        self._get_client = get_client

    async def add_fault(self, target: str, **rule: Any) -> int:
        """`rule` as in docs/sandbox.md; returns the id."""
        fault = await self._call("POST", "/faults", {"target": target, **rule})
        return int(fault["id"])

    async def get_fault(self, fault_id: int) -> JsonObject:
        """With `matched` and `fired`."""
        return await self._call("GET", f"/faults/{fault_id}")

    async def list_faults(self) -> list[JsonObject]:
        """All of them, with `matched`, `fired` and `is_over`."""
        return list((await self._call("GET", "/faults"))["faults"])

    async def remove_fault(self, fault_id: int) -> None:
        """Whatever it holds goes on."""
        await self._call("DELETE", f"/faults/{fault_id}")

    async def clear_faults(self) -> None:
        await self._call("DELETE", "/faults")

    async def record(self, *, limit: int = 200_000, **wanted: Any) -> list[JsonObject]:
        """Entries by kind, phone_number_id, to, processed, status, after …; oldest first."""
        found = await self._call("GET", f"/record?{_query(limit=limit, **wanted)}")
        return list(found["entries"])

    async def wait(self, count: int = 1, *, timeout_seconds: float = 10.0, **wanted: Any) -> list[JsonObject]:
        """At least `count` such entries, once there are. Raises `TimeoutError` telling what there was."""
        query = _query(count=count, timeout=timeout_seconds, **wanted)
        found = await self._call("GET", f"/record/wait?{query}", timeout_seconds=timeout_seconds + TIMEOUT_SECONDS)
        if not found["complete"]:
            raise TimeoutError(
                f"{len(found['entries'])} of {count} entries with {wanted} within {timeout_seconds} s; "
                f"the record: {await self.summary()}"
            )
        return list(found["entries"])

    async def summary(self) -> JsonObject:
        """Counts by kind, and `last_seq` to pass as `after`."""
        return await self._call("GET", "/record/summary")

    async def clear_record(self) -> None:
        await self._call("DELETE", "/record")

    async def add_account(self, phone_number_id: str, access_token: str, **more: object) -> None:
        """From now on only this token opens the number."""
        await self._call(
            "POST", "/accounts", {"phone_number_id": phone_number_id, "access_token": access_token, **more}
        )

    async def set_callbacks(self, urls: Sequence[str], *, app_secret: str | None = None) -> None:
        """Where status webhooks go, in turn."""
        await self._call("PUT", "/callbacks", {"urls": list(urls), "app_secret": app_secret})

    async def change_behaviour(self, **changes: object) -> None:
        """Fields of `Behaviour`."""
        await self._call("PATCH", "/behaviour", changes)

    async def customer_wrote(self, phone_number_id: str, to: str, *, at: float | None = None) -> None:
        """Opens the 24-hour window of this customer at `at` (Unix seconds)."""
        await self._call("POST", "/customers", {"phone_number_id": phone_number_id, "to": to, "last_message_at": at})

    async def say(self, text: str, **who: object) -> JsonObject:
        """A customer writes `text` (`who`: sender, name, phone_number_id). Returns `id`, `to`, `phone_number_id`, and
        `after`, from where `wait` finds the reply. Raises `SandboxRefused` when no replica accepted it."""
        return await self._call("POST", "/say", {"text": text, **who}, timeout_seconds=4 * TIMEOUT_SECONDS)

    async def upload(self, content: bytes, mime_type: str, *, says: str | None = None) -> str:
        """Returns the media id. `says`: what the stand-in for Gemini hears in it, or sees."""
        client = await get_http_client_for_media()
        url = f"{self.url}/sandbox/media?{_query(says=says)}"
        response = await client.post(url, content=content, headers={"content-type": mime_type})
        return str(_checked(Response(response.status_code, response.headers, response.content))["id"])

    async def reset(self) -> None:
        """Everything back to the configuration, record and faults gone."""
        await self._call("POST", "/reset")

    async def _call(
        self, method: str, path: str, payload: Any = None, *, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> JsonObject:
        response = await request(
            method,
            f"{self.url}/sandbox{path}",
            timeout_seconds=timeout_seconds,
            payload=payload,
            max_body_bytes=MAX_ANSWER_BYTES,
            get_client=self._get_client,
        )
        return _checked(response)


def _checked(response: Response) -> JsonObject:
    answer: JsonObject = orjson.loads(response.body)
    if response.status >= 400:
        raise SandboxRefused(answer["error"]["message"])
    return answer


def _query(**values: object) -> str:
    return urlencode({name: value for name, value in values.items() if value is not None})
