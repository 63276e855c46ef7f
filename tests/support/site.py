"""The console in a real browser: a fleet behind the shipped balancer, customers, and a page that tolerates no error."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

import httpx
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Error, Page, expect

from app.demo.bakery import BAKERY
from app.localhost.fleet import LocalFleet
from app.localhost.servers import EmbeddedServers
from app.sandbox import webhooks
from app.sandbox.webhooks import encode_like_meta, signed_headers
from tests.support.supabase_people import SupabasePeople
from tests.support.world import mend

T = TypeVar("T")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WAIT_SECONDS = 10.0
_numbers = count(1)


@dataclass
class Site:
    """`url` is the balancer's public one, where the fleet's screens do not open."""

    servers: EmbeddedServers
    fleet: LocalFleet
    url: str
    http: httpx.Client
    operators_url: str = ""
    """The balancer's entrance for operators; without HAProxy a replica."""
    people: SupabasePeople = field(default_factory=SupabasePeople)
    account: dict[str, Any] = field(default_factory=dict)

    def api(self, method: str, path: str, payload: object = None) -> Any:
        """As the operator, at the first replica that lives."""
        replica = next(replica for replica in self.fleet.replicas if replica.running)
        answer = self.http.request(
            method, replica.url + path, json=payload, headers={"Authorization": f"Bearer {self.fleet.keys.admin}"}
        )
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def sandbox(self, method: str, path: str, payload: object = None) -> Any:
        answer = self.http.request(method, f"{self.fleet.sandbox.url}/sandbox{path}", json=payload)
        answer.raise_for_status()
        return answer.json()

    def mend(self) -> None:
        """Put right what a test has broken, also when it failed: the tests after it need all of it."""
        mend(self.servers, self.fleet)
        self.sandbox("DELETE", "/faults")
        self.sandbox("PUT", "/callbacks", {"urls": self.fleet.webhook_urls, "app_secret": self.fleet.keys.app_secret})
        for name, circuit in self.api("GET", "/admin/breakers").items():
            if circuit["forced"] or circuit["state"] != "closed":
                self.api("POST", f"/admin/breakers/{name}", {"action": "auto", "why": "the test is over"})

    def new_account(self, name: str, **profile: object) -> dict[str, Any]:
        number = next(_numbers)
        account = self.api("POST", "/accounts", {
            "name": name, "slug": f"shop-{number}", "phone_number_id": f"8000{number:06d}",
            "access_token": "a-token-of-the-sandbox", "verify_token": f"verify-token-{number}",
        })  # fmt: skip
        self.api("PUT", f"/bot/profile?account_id={account['id']}", BAKERY | profile)
        return dict(account)

    def customer(self, name: str, *texts: str, account: dict[str, Any] | None = None) -> str:
        """A new customer writes `texts`; their number."""
        sender = f"3362{next(_numbers):07d}"
        for text in texts:
            self.say(sender, text, name=name, account=account)
        return sender

    def say(self, sender: str, text: str, *, name: str, account: dict[str, Any] | None = None) -> None:
        number = (account or self.account)["phone_number_id"]
        self.sandbox("POST", "/say", {"text": text, "sender": sender, "name": name, "phone_number_id": number})

    def send_file(
        self, sender: str, kind: str, content: bytes, mime: str, *, says: str, name: str, **more: Any
    ) -> None:
        """A customer's file, in which the stand-in for Gemini hears, or sees, what it `says`."""
        answer = self.http.post(
            f"{self.fleet.sandbox.url}/sandbox/media",
            params={"says": says}, content=content, headers={"Content-Type": mime},
        )  # fmt: skip
        answer.raise_for_status()
        person = webhooks.Person(sender, name)
        message = webhooks.file(person, kind, answer.json()["id"], content, mime_type=mime, **more)
        shop = webhooks.Business(self.account["phone_number_id"])
        self.deliver(webhooks.envelope(webhooks.messages_change(shop, [message], [person])))

    def deliver(self, payload: object) -> None:
        """A signed webhook of any content."""
        raw = encode_like_meta(payload)
        headers = signed_headers(self.fleet.keys.app_secret, raw)
        self.http.post(self.fleet.webhook_urls[0], content=raw, headers=headers).raise_for_status()

    def sent_to(self, number: str, many: int = 1) -> list[dict[str, Any]]:
        """What WhatsApp has taken for this customer, once there are `many`."""
        found = self.sandbox("GET", f"/record/wait?kind=send&to={number}&count={many}&timeout={WAIT_SECONDS:g}")
        assert found["complete"], found
        return list(found["entries"])

    def conversation_of(self, number: str, *, account: dict[str, Any] | None = None) -> dict[str, Any]:
        def find() -> dict[str, Any] | None:
            page = self.api("GET", f"/conversations?limit=200&account_id={(account or self.account)['id']}")
            return next((item for item in page["items"] if item["contact"]["wa_id"] == number), None)

        return until(find)


def until(ask: Callable[[], T | None], *, seconds: float = WAIT_SECONDS) -> T:
    """The first answer that is true."""
    deadline = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


class Strict:
    """What a page must not say of itself: errors in its console, violations of its policy, dialogs (a customer's
    script ran). Refusals that a test provokes are named with `expect`."""

    def __init__(self, page: Page) -> None:
        self.problems: list[str] = []
        self._expected: list[str] = []
        page.on("console", self._said)
        page.on("pageerror", self._failed)
        page.on("dialog", self._asked)

    def expect(self, *parts: str) -> None:
        """Messages with one of these in text or address are no problem."""
        self._expected += parts

    def _failed(self, error: Error) -> None:
        self.problems.append(f"exception: {error}")

    def _asked(self, dialog: Dialog) -> None:
        if dialog.type != "beforeunload":
            self.problems.append(f"dialog: {dialog.message}")
        dialog.accept()

    def _said(self, message: ConsoleMessage) -> None:
        said = f"{message.type}: {message.text} {message.location.get('url', '')}"
        if message.type in {"error", "warning"} and not any(part in said for part in self._expected):
            self.problems.append(said)


@contextmanager
def opened(browser: Browser, **context: Any) -> Iterator[tuple[BrowserContext, Page, Strict]]:
    """A page of a new profile of the browser; its problems fail the test at the end."""
    settings: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}, "locale": "en-GB", "color_scheme": "light"}
    profile = browser.new_context(**settings | context)
    profile.set_default_timeout(WAIT_SECONDS * 1000)
    page = profile.new_page()
    strict = Strict(page)
    try:
        yield profile, page, strict
    finally:
        profile.close()
    assert not strict.problems, strict.problems


@contextmanager
def entered(
    site: Site, browser: Browser, where: str | None = None, *, url: str | None = None, **context: Any
) -> Iterator[tuple[Page, Strict]]:
    """Signed in as the operator, at `where`, "#" and a path; else in the inbox."""
    base = url or site.url
    with opened(browser, **context) as (profile, page, strict):
        assert profile.request.post(f"{base}/session", data={"operator_key": site.fleet.keys.admin}).ok
        page.goto(f"{base}/console{where or '#/inbox/' + site.account['id'] + '/all'}")
        expect(page.locator(".rail")).to_be_visible()
        yield page, strict
