"""Writes docs/img/: the console's screens, drawn by Chromium from a fleet of their own (`make screenshots`)."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.site import CHROMIUM, Site, opened, until
from tests.support.world import running_fleet

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "img"
MAX_BYTES = 150_000
CUSTOMERS = {
    "Amina Diallo": ("Hello! Do you have *vegan* pastries?", "And when do you open on Sunday?"),
    "Bruno Costa": ("Do you have gluten-free bread?",),
    "Chloé Martin": ("Can I reserve bread?", "How much is a butter croissant?"),
    "Émile Roux": ("What about delivery?",),
    "Fatou Ndiaye": ("I want to speak to a person, please",),
    "Giulia Conti": ("Where can I park?",),
    "Hugo Lefèvre": ("Is there a strawberry cake for 8 people?",),
}
OPEN = "Amina Diallo"


def main() -> None:
    if CHROMIUM is None:
        sys.exit("make screenshots needs Chromium (Debian: apt install chromium)")
    IMAGES.mkdir(exist_ok=True)
    settings = {"DEBOUNCE_SECONDS": "0.15", "WHATSAPP_MESSAGES_PER_SECOND": "1000", "DRAIN_SECONDS": "0"}
    with running_fleet(settings) as (servers, fleet), httpx.Client(timeout=30) as http:
        site = Site(servers, fleet, fleet.replicas[0].url, http)
        site.sandbox("PUT", "/callbacks", {"urls": fleet.webhook_urls, "app_secret": fleet.keys.app_secret})
        site.account = site.new_account("Maison Levain", handover_keywords=["speak to a person"])
        _fill(site)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            _draw_all(site, browser)
            browser.close()


def _fill(site: Site) -> None:
    numbers = {name: site.customer(name, *texts) for name, texts in CUSTOMERS.items()}
    for number in numbers.values():
        site.sent_to(number)
    until(lambda: not site.api("GET", "/admin/queue")["pending"])
    opened_one = site.conversation_of(numbers[OPEN])
    text = "Claire here: I keep two apple turnovers for you until noon."
    site.api("POST", f"/conversations/{opened_one['id']}/messages", {"text": text})
    site.sent_to(numbers[OPEN], 2)
    account = f"/accounts/{site.account['id']}"
    site.api("POST", f"{account}/api-keys", {"name": "our CRM", "role": "agent"})
    hook = {"url": "https://crm.example/chorus", "events": ["message.received", "conversation.needs_human"]}
    site.api("POST", f"{account}/webhooks", hook)


def _draw_all(site: Site, browser: Browser) -> None:
    account = site.account["id"]
    for name, where, draw, context in (
        ("inbox", f"#/inbox/{account}/all", _open, {}),
        ("inbox-dark", f"#/inbox/{account}/all", _open, {"color_scheme": "dark", "locale": "fr-FR"}),
        ("inbox-phone", f"#/inbox/{account}/all", _open, {"viewport": {"width": 360, "height": 740}}),
        ("bot", f"#/bot/{account}", _simulate, {}),
        ("account", f"#/account/{account}/health", None, {}),
        ("webhooks", f"#/account/{account}/webhooks", None, {}),
        ("usage", f"#/account/{account}/usage", None, {}),
        ("fleet", "#/fleet", None, {}),
        ("queue", "#/fleet/queue", None, {}),
        ("rehearsal", "#/fleet/rehearsal", None, {}),
    ):
        with opened(browser, **context) as (_, page, strict):
            strict.expect("/")
            page.goto(f"{site.url}/console")
            page.locator(".signin").wait_for()
            if name == "inbox":
                _save(page, "sign-in")
            page.goto("about:blank")
            page.goto(f"{site.url}/console#token={site.fleet.keys.admin}")
            page.locator(".rail").wait_for()
            page.goto(f"{site.url}/console{where}")
            page.wait_for_timeout(1000)
            if draw:
                draw(page)
            page.wait_for_timeout(1200)
            _save(page, name)


def _open(page: Page) -> None:
    page.locator(".row").filter(has_text=OPEN).click()


def _simulate(page: Page) -> None:
    page.get_by_role("textbox", name="Write as a customer").fill("Do you have vegan pastries?")
    page.keyboard.press("Enter")
    page.wait_for_timeout(2500)


def _save(page: Page, name: str) -> None:
    path = IMAGES / f"console-{name}.png"
    page.screenshot(path=path)
    size = path.stat().st_size
    print(f"{path.name}: {size} bytes")
    if size > MAX_BYTES:
        sys.exit(f"{path.name} is larger than {MAX_BYTES} bytes")


if __name__ == "__main__":
    main()
