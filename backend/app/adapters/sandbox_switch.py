"""The control of a sandbox that stands where WhatsApp should: over HTTP, so that no stand-in is imported."""

from __future__ import annotations

from collections.abc import Sequence

from app.core.http_client import HttpError, Response, request
from app.domain.errors import Unavailable
from app.domain.models import Json

TIMEOUT_SECONDS = 3.0
NAME = "sandbox"


class SandboxSwitch:
    def __init__(self, base_url: str) -> None:
        self._url = f"{base_url.rstrip('/')}/sandbox"

    async def is_attached(self) -> bool:
        try:
            return (await self._call("GET")).status == 200
        except Unavailable:
            return False

    async def rules(self) -> Sequence[Json]:
        faults = _checked(await self._call("GET")).json()["faults"]
        return list(faults)

    async def add(self, rule: Json) -> None:
        _checked(await self._call("POST", dict(rule)))

    async def clear(self) -> None:
        _checked(await self._call("DELETE"))

    async def _call(self, method: str, payload: object = None) -> Response:
        try:
            return await request(method, f"{self._url}/faults", payload=payload, timeout_seconds=TIMEOUT_SECONDS)
        except HttpError as exc:
            raise Unavailable(NAME, "the sandbox does not answer") from exc


def _checked(response: Response) -> Response:
    if response.status >= 400:
        raise Unavailable(NAME, f"the sandbox answered {response.status}")
    return response
