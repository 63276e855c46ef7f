"""Who may do what: every route of the OpenAPI document, asked by every kind of caller, against the table `who_may.txt`.

A new route needs a row there, and a line in `BODIES` or `FRESH` below where it takes a body or destroys what it names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from app.adapters.postgres_store import PostgresStore
from app.core.http_client import close_http_client
from app.domain.media import Announced, MediaState
from tests.support.replica import Replica, one_replica, token_of
from tests.support.serving import OPERATOR_KEY
from tests.support.source import openapi_document
from tests.support.store_kit import message, quick_policy

pytestmark = pytest.mark.asyncio(loop_scope="module")

TABLE = Path(__file__).with_name("who_may.txt")
DOCUMENT = openapi_document()
ROUTES = [f"{method.upper()} {path}" for path, item in DOCUMENT["paths"].items() for method in item]
REFUSALS = {401: ("unauthenticated",), 403: ("forbidden",), 404: ("account_not_found", "conversation_not_found",
            "contact_not_found", "media_not_found")}  # fmt: skip
"""What a caller is told who may not. A route that does not find something else would look the same otherwise."""
PUBLIC = ("/health", "/metrics", "/webhook", "/session")
"""They refuse in words of their own."""
_serial = count(1)


def rows() -> dict[str, list[str]]:
    """By route: the status that each caller gets, in the order of the table's first line."""
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return {f"{method} {path}": statuses for method, path, *statuses in (line.split() for line in lines[1:])}


def callers() -> list[str]:
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("route")).split()[1:]


@dataclass
class Office:
    """One account with everything that a route can name, another one, and everyone who asks about them."""

    api: Replica
    store: PostgresStore
    account: dict[str, Any] = field(default_factory=dict)
    elsewhere: dict[str, Any] = field(default_factory=dict)
    """Where invitations lead, so that no caller becomes a member of the account."""
    tokens: dict[str, str | None] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)

    async def open(self) -> None:
        self.account, self.elsewhere = await self.api.new_account(owner="owner"), await self.api.new_account()
        await self.api.new_account(owner="other_owner")
        for name, role in (("viewer", "viewer"), ("agent", "agent"), ("colleague", "viewer")):
            await self.api("PUT", f"{self.path}/members/{name}", json={"role": role})
        self.tokens = {name: token_of(name) for name in ("stranger", "viewer", "agent", "owner", "other_owner")}
        for role in ("viewer", "agent", "owner"):
            self.tokens[f"key_{role}"] = (await self.new_key(role))["key"]
        revoked = await self.new_key("owner")
        await self.api("DELETE", f"{self.path}/api-keys/{revoked['id']}", status=204)
        self.tokens |= {
            "nobody": None, "bad_token": token_of("owner", aud="somewhere-else"), "revoked_key": revoked["key"],
            "operator": OPERATOR_KEY, "anonymous": token_of("anonymous", is_anonymous=True),
        }  # fmt: skip
        conversation = await self.new_conversation()
        messages = await self.store.list_messages(conversation["conversation_id"], limit=1, cursor=None)
        await self.keep_file(str(messages.items[0].wa_message_id))
        self.known = {
            "account_id": self.account["id"], "user_id": "colleague", "name": "gemini", **conversation,
            "message_id": messages.items[0].id, "webhook_id": await self.new_webhook(),
            "api_key_id": (await self.new_key("viewer"))["id"],
            "invitation_id": (await self.new_invitation(self.account))["id"],
        }  # fmt: skip

    @property
    def path(self) -> str:
        return f"/accounts/{self.account['id']}"

    async def new_key(self, role: str) -> dict[str, Any]:
        return dict(await self.api("POST", f"{self.path}/api-keys", json={"name": "n", "role": role}, status=201))

    async def new_invitation(self, account: dict[str, Any]) -> dict[str, Any]:
        path = f"/accounts/{account['id']}/invitations"
        return dict(await self.api("POST", path, json={"role": "viewer"}, status=201))

    async def new_webhook(self) -> str:
        made = await self.api("POST", f"{self.path}/webhooks", json=BODIES[f"POST {WEBHOOKS}"](self), status=201)
        return str(made["id"])

    async def new_conversation(self) -> dict[str, str]:
        number = f"3360000{next(_serial):04d}"
        inbound = await self.store.record_inbound(
            self.account["id"], wa_id=number, user_id=None, name="Amina", messages=[message("hello")]
        )
        return {"conversation_id": inbound.conversation.id, "contact_id": inbound.conversation.contact.id}

    async def keep_file(self, wa_message_id: str) -> None:
        told = Announced(wa_message_id, "source", "image", "image/jpeg", None, None)
        (file,) = (await self.store.open_media(self.account["id"], [told], quoted=[])).files
        await self.store.put_media_chunk(file.id, 0, b"x")
        await self.store.settle_media(file.id, MediaState.KEPT, sha256="0" * 64, size=1)

    async def new_member(self) -> str:
        name = f"member-{next(_serial)}"
        await self.api("PUT", f"{self.path}/members/{name}", json={"role": "viewer"})
        return name

    async def ask(self, route: str, caller: str, *, is_let_in: bool) -> tuple[int, str]:
        """The status, and the code of an error."""
        method, path = route.split()
        known = dict(self.known)
        if is_let_in and route in FRESH:
            known |= await FRESH[route](self)
        more: dict[str, Any] = {"json": BODIES[route](self)} if route in BODIES else {}
        if route == "POST /invitations/accept":
            more = {"json": {"token": (await self.new_invitation(self.elsewhere))["token"]}}
        query = QUERIES.get(route, "account_id={account_id}" if _needs_account(route) else "").format_map(known)
        token = self.tokens[caller]
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"{self.api.url}{path.format_map(known)}{'?' + query if query else ''}"
        self.api.http.cookies.clear()  # of the sessions that callers opened
        async with self.api.http.stream(method, url, headers=headers, **more) as response:
            if response.status_code < 400:  # a stream of events has no end
                return response.status_code, ""
            await response.aread()
            is_ours = path.startswith(PUBLIC) or response.headers.get("content-type") != "application/json"
            return response.status_code, "" if is_ours else response.json()["error"]["code"]


def _needs_account(route: str) -> bool:
    method, path = route.split()
    operation = DOCUMENT["paths"][path][method.lower()]
    return any(p["name"] == "account_id" and p["in"] == "query" for p in operation.get("parameters", ()))


WEBHOOKS = "/accounts/{account_id}/webhooks"
BODIES: dict[str, Callable[[Office], dict[str, Any]]] = {
    "POST /session": lambda _: {"operator_key": OPERATOR_KEY},
    "POST /session/magic-link": lambda _: {"email": "ada@example.com"},
    "POST /accounts": lambda _: {
        "name": "n", "slug": f"slug-{(number := next(_serial))}", "phone_number_id": f"77{number}",
        "access_token": "12345678", "verify_token": "12345678",
    },
    "PATCH /accounts/{account_id}": lambda _: {"name": "Levain"},
    "PUT /accounts/{account_id}/members/{user_id}": lambda _: {"role": "viewer"},
    "POST /accounts/{account_id}/api-keys": lambda _: {"name": "n", "role": "viewer"},
    "POST /accounts/{account_id}/invitations": lambda _: {"role": "viewer"},
    f"POST {WEBHOOKS}": lambda _: {"url": "https://127.0.0.1:9/", "events": ["message.sent"]},
    f"PATCH {WEBHOOKS}/{{webhook_id}}": lambda _: {"events": ["message.sent"]},
    "PUT /bot/profile": lambda _: {"hours": "9-17"},
    "POST /bot/simulate": lambda _: {"profile": {}, "turns": [{"from": "customer", "text": "hello"}]},
    "POST /conversations/{conversation_id}/messages": lambda _: {"text": "hello"},
    "POST /conversations/{conversation_id}/bot": lambda _: {"enabled": True},
    "POST /admin/breakers/{name}": lambda _: {"action": "auto"},
    "POST /admin/cache/invalidate": lambda _: {"pattern": "x"},
    "POST /admin/rehearsal": lambda _: {"fault": "gemini_down", "seconds": 1},
    "POST /admin/dead-letters/replay": lambda _: {"ids": ["0-1-1"]},
    "POST /admin/dead-letters/drop": lambda _: {"ids": ["0-1-1"]},
    "POST /webhook/whatsapp": lambda _: {"object": "whatsapp_business_account", "entry": []},
}  # fmt: skip
QUERIES: dict[str, str] = {"GET /webhook/whatsapp": "hub.mode=subscribe&hub.verify_token=wrong&hub.challenge=1"}


async def _fresh(name: str, made: Awaitable[Any]) -> dict[str, str]:
    found = await made
    return {name: str(found["id"] if isinstance(found, dict) else found)}


FRESH: dict[str, Callable[[Office], Awaitable[dict[str, str]]]] = {
    "DELETE /accounts/{account_id}/members/{user_id}": lambda office: _fresh("user_id", office.new_member()),
    "DELETE /accounts/{account_id}/api-keys/{api_key_id}": lambda office: _fresh("api_key_id", office.new_key("agent")),
    "DELETE /accounts/{account_id}/invitations/{invitation_id}": lambda office: _fresh(
        "invitation_id", office.new_invitation(office.account)
    ),
    f"DELETE {WEBHOOKS}/{{webhook_id}}": lambda office: _fresh("webhook_id", office.new_webhook()),
    "DELETE /contacts/{contact_id}": lambda office: office.new_conversation(),
}
"""What is there only once, made anew for each caller who may destroy it."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def office(module_stores: tuple[str, str]) -> AsyncIterator[Office]:
    """Nothing is sent: no worker runs."""
    async with one_replica(*module_stores, app_role="api", events_allow_private=True) as api:
        store = PostgresStore(module_stores[1], policy=quick_policy())
        office = Office(api, store)
        await office.open()
        yield office
        await store.aclose()
        await close_http_client()


async def test_every_route_has_a_row_and_every_row_a_route() -> None:
    assert sorted(rows()) == sorted(ROUTES)
    assert {route: len(statuses) for route, statuses in rows().items() if len(statuses) != len(callers())} == {}


@pytest.mark.parametrize("route", ROUTES)
async def test_each_caller_gets_what_the_table_says(office: Office, route: str) -> None:
    expected = dict(zip(callers(), map(int, rows()[route]), strict=True))
    assert set(expected) == set(office.tokens)
    found: dict[str, int] = {}
    for caller, status in expected.items():
        found[caller], code = await office.ask(route, caller, is_let_in=status < 400)
        if found[caller] in REFUSALS and not route.split()[1].startswith(PUBLIC):
            assert code in REFUSALS[found[caller]], (caller, code)
    assert found == expected


async def test_who_was_refused_has_changed_nothing(office: Office) -> None:
    """By the audit trail of the account, after all of them have tried everything."""
    entries = (await office.store.list_audit(office.account["id"], limit=200, cursor=None)).items
    by = {entry.actor_id for entry in entries}
    keys = {f"key:{key.id}": key.role for key in await office.store.list_api_keys(office.account["id"])}
    assert {"operator", "owner"} <= by
    assert {keys.get(who, who) for who in by} == {"operator", "owner"}
