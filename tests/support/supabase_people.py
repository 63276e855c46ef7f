"""Supabase Auth as far as signing in needs it: people with passwords, refresh tokens that work once, mails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from tests.support.fakes import peer, read_request, response
from tests.support.replica import token_of

PUBLISHABLE_KEY = "sb_publishable_of_the_tests"


@dataclass
class SupabasePeople:
    url: str = ""
    passwords: dict[str, str] = field(default_factory=lambda: {"ada@example.com": "right", "bob@example.com": "right"})
    banned: set[str] = field(default_factory=set)
    refresh_tokens: dict[str, str] = field(default_factory=dict)
    mails: list[tuple[str, str | None]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    is_away: bool = False
    token_seconds: int = 3600
    _made: int = 0

    def tokens(self, email: str) -> dict[str, Any]:
        self._made += 1
        self.refresh_tokens[f"refresh-{self._made}"] = email
        claims = {"iss": f"{self.url}/auth/v1", "email": email}
        return {
            "access_token": token_of(email.partition("@")[0], **claims), "refresh_token": f"refresh-{self._made}",
            "expires_in": self.token_seconds, "token_type": "bearer",
        }  # fmt: skip

    def answer(self, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        if self.is_away:
            return "503 Service Unavailable", {}
        if path == "/auth/v1/otp":
            if body["email"] not in self.passwords:
                return "422 Unprocessable Entity", {"code": 422, "error_code": "otp_disabled", "msg": "no signups"}
            self.mails.append((body["email"], query.get("redirect_to", [None])[0]))
            return "200 OK", {}
        (grant,) = query["grant_type"]
        if grant == "password":
            email = body["email"] if self.passwords.get(body["email"]) == body["password"] else None
        else:
            email = self.refresh_tokens.pop(body["refresh_token"], None)
        if email is None or email in self.banned:
            return "400 Bad Request", {"code": 400, "error_code": "invalid_credentials", "msg": "no"}
        return "200 OK", self.tokens(email)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while not reader.at_eof():
            line, headers, body = await read_request(reader)
            target = urlsplit(line.split()[1])
            self.asked.append(target.path + "?" + target.query)
            if headers.get("apikey") == PUBLISHABLE_KEY:
                status, answer = self.answer(target.path, parse_qs(target.query), orjson.loads(body))
            else:
                status, answer = "401 Unauthorized", {"message": "Invalid API key"}
            writer.write(response(orjson.dumps(answer), status=status))
            await writer.drain()


@asynccontextmanager
async def supabase_people() -> AsyncIterator[SupabasePeople]:
    people = SupabasePeople()
    async with peer(people.handle) as people.url:
        yield people


@contextmanager
def supabase_people_aside() -> Iterator[SupabasePeople]:
    """In a thread of their own, for tests that wait for a browser."""
    started: Future[tuple[SupabasePeople, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        is_over = asyncio.Event()
        async with supabase_people() as people:
            started.set_result((people, asyncio.get_running_loop(), is_over))
            await is_over.wait()

    thread = Thread(target=asyncio.run, args=(serve(),), name="Supabase's people")
    thread.start()
    people, loop, is_over = started.result(10)
    try:
        yield people
    finally:
        loop.call_soon_threadsafe(is_over.set)
        thread.join()
