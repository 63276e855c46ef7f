"""What holds on every screen: nothing that customers or colleagues wrote runs; no mouse is needed; it works in both
languages, in the dark and on a phone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page, expect

from app.sandbox.webhooks import Business, Person, envelope, message_id, messages_change
from tests.support.patience import Within
from tests.support.site import Site, entered, opened, until

HOSTILE = (
    "<script>alert('ran')</script>",
    "<img src=x onerror=alert('ran')>",
    "<svg/onload=alert('ran')>",
    "javascript:alert('ran')",
    '"><iframe srcdoc="<script>parent.alert(\'ran\')</script>">',
    "{{constructor.constructor(\"alert('ran')\")()}}${alert('ran')}`",
    "https://evil.example/\"onmouseover=alert('ran')",
    "</textarea></title><style>*{display:none}</style>",
    "<a href=\"javascript:alert('ran')\">*bold*</a>",
    "\u202eexe.gnp\u202c\u0000&lt;b&gt;".replace("\x00", ""),
    "W" * 70,
    "محمد عبد الرحمن بن عبد العزيز آل سعود",
    "👩‍👩‍👧‍👦" * 20,
)
SCREENS = (
    "#/inbox/{account}/all", "#/bot/{account}", "#/account/{account}/health", "#/account/{account}/people",
    "#/account/{account}/keys", "#/account/{account}/webhooks", "#/account/{account}/usage",
    "#/account/{account}/customers", "#/account/{account}/audit", "#/fleet/overview", "#/fleet/queue", "#/fleet/cache",
    "#/fleet/rehearsal",
)  # fmt: skip
ALIVE = "iframe, #app script, #app style, [onerror], [onload], a[href^='javascript']"
SETTLE_MS = 150
STILL = {"reduced_motion": "reduce"}
"""Half-way through a transition there are colours that the design does not have."""
CUT = """() => [document.documentElement, ...document.querySelectorAll("#app *, dialog *")].filter((part) => {
  if (!part.checkVisibility() || part.matches("input, textarea, select, .visually-hidden")) return false;
  if (part.scrollWidth <= part.clientWidth + 1 || !part.clientWidth) return false;
  const { overflowX, textOverflow } = getComputedStyle(part);
  if (part === document.documentElement) return true;
  if (overflowX === "visible") return false;
  if (overflowX !== "hidden") return !part.matches(".table-box, .tabs, .views");
  return textOverflow !== "ellipsis" || part.clientWidth < 100;
}).map((part) => `${part.localName}.${part.className}: ${part.scrollWidth} > ${part.clientWidth} px`)"""
"""What is wider than its place: only tables and lines of links may be scrolled sideways, and a name that is shortened
must keep enough to be one."""


@pytest.fixture(scope="module")
def hostile(site: Site) -> dict[str, Any]:
    """An account whose name, profile, keys and customers are made to break a page."""
    texts = dict.fromkeys(("description", "address", "hours", "knowledge_base", "fallback_text"), HOSTILE[0])
    account = site.new_account(
        HOSTILE[1],
        business_name=HOSTILE[1],
        custom_fields={HOSTILE[2]: HOSTILE[1]},
        handover_keywords=["manager"],
        template_config={HOSTILE[0]: HOSTILE[5]},
        **texts,
    )
    site.api("POST", f"/accounts/{account['id']}/api-keys", {"name": HOSTILE[4], "role": "viewer"})
    site.api(
        "POST",
        f"/accounts/{account['id']}/webhooks",
        {"url": "https://x.invalid/?q=<script>alert('ran')</script>", "events": ["message.received"]},
    )
    business = Business(account["phone_number_id"])
    for at, words in enumerate(HOSTILE):
        person = Person(f"33630000{at:03d}", words)
        site.deliver(envelope(messages_change(business, _messages(person, words), [person])))
    until(lambda: len(site.api("GET", f"/conversations?account_id={account['id']}")["items"]) == len(HOSTILE))
    patient = HOSTILE.index("W" * 70)
    site.say(f"33630000{patient:03d}", "The manager, please", name=HOSTILE[patient], account=account)
    until(lambda: site.api("GET", f"/conversations?account_id={account['id']}&needs_human=true")["items"])
    until(lambda: not site.api("GET", "/admin/queue")["pending"], seconds=30)
    site.api("POST", "/admin/breakers/gemini", {"action": "open", "why": HOSTILE[1]})
    site.api("POST", "/admin/breakers/gemini", {"action": "auto", "why": HOSTILE[1]})
    return account


def _messages(person: Person, words: str) -> list[dict[str, Any]]:
    """The same words in every place of a message that a person chooses."""
    first = message_id()
    contents: list[dict[str, Any]] = [
        {"type": "text", "text": {"body": words}, "context": {"id": first}},
        {"type": "document", "document": {"id": "1", "filename": words, "caption": words, "mime_type": words}},
        {"type": "location", "location": dict.fromkeys(("latitude", "longitude", "name", "address", "url"), words)},
        {"type": "contacts", "contacts": [{"name": {"formatted_name": words}, "phones": [{"phone": words}]}]},
        {"type": "reaction", "reaction": {"message_id": first, "emoji": words}},
        {"type": words, words: {"caption": words}},
    ]
    shared = {"from": person.wa_id, "timestamp": "1795000000"}
    said = {**shared, "id": first, "type": "text", "text": {"body": words}}
    return [said, *({**shared, "id": message_id(), **content} for content in contents)]


def visit(page: Page, base: str, account: dict[str, Any]) -> Iterator[str]:
    """The screens in turn, each once it has loaded; at the end the thread of a customer with a name of one long word,
    whom a person is to answer while the bot is silent."""
    for screen in SCREENS:
        page.goto(base + "/console" + screen.format(account=account["id"]))
        expect(page.locator("main").first).to_be_visible()
        expect(page.locator(".loading")).to_have_count(0)
        page.wait_for_timeout(SETTLE_MS)
        yield screen
    page.goto(f"{base}/console#/inbox/{account['id']}/all")
    page.locator(".row").filter(has_text="WWW").click()
    expect(page.locator(".message").first).to_be_visible()
    expect(page.locator(".thread-head .button.give")).to_be_visible()
    yield "thread"


def test_nothing_that_customers_wrote_runs_or_becomes_markup(
    site: Site, browser: Browser, hostile: dict[str, Any]
) -> None:
    base = site.fleet.replicas[0].url
    with entered(site, browser, url=base) as (page, _):
        for item in site.api("GET", f"/conversations?account_id={hostile['id']}")["items"]:
            page.goto(f"{base}/console#/inbox/{hostile['id']}/all/{item['id']}")
            expect(page.locator(".thread-who h1")).to_have_text(item["contact"]["name"])
            expect(page.locator(".message").first).to_be_visible()
            assert page.locator(ALIVE).count() == 0


def test_everyone_can_use_every_screen_in_light_and_dark(site: Site, browser: Browser, hostile: dict[str, Any]) -> None:
    base = site.fleet.replicas[0].url
    found = []
    with entered(site, browser, url=base, **STILL) as (page, _):
        for screen in visit(page, base, hostile):
            assert page.locator(ALIVE).count() == 0, screen
            found += _barriers(page, screen)
            page.emulate_media(color_scheme="dark")
            found += _barriers(page, f"{screen} in the dark", "color-contrast")
            page.emulate_media(color_scheme="light")
    assert found == []


def test_everyone_can_use_every_screen_on_a_phone_in_french(
    site: Site, browser: Browser, hostile: dict[str, Any]
) -> None:
    base = site.fleet.replicas[0].url
    found = []
    phone = {"viewport": {"width": 360, "height": 740}, "locale": "fr-FR", "color_scheme": "dark"} | STILL
    with entered(site, browser, url=base, **phone) as (page, strict):
        for screen in visit(page, base, hostile):
            found += _barriers(page, screen) + page.evaluate(CUT)
            assert not page.evaluate("document.querySelector('.page')?.scrollTop"), f"{screen} opens at its top"
        page.goto(f"{base}/console#/fleet/overview")
        page.get_by_role("button", name="Forcer l'ouverture").first.click()
        expect(page.get_by_role("textbox")).to_be_focused()
        found += _barriers(page, "a question") + page.evaluate(CUT)
        page.keyboard.press("Escape")
        page.goto(f"{base}/console#/bot/{hostile['id']}")
        page.get_by_role("textbox", name="Nom de l'entreprise").fill("Maison Levain")
        found += _barriers(page, "unsaved") + page.evaluate(CUT)
        page.get_by_role("button", name="Annuler").click()
        page.keyboard.press("?")
        found += _barriers(page, "shortcuts") + page.evaluate(CUT)
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Moi").click()
        found += _barriers(page, "preferences") + page.evaluate(CUT)
        strict.expect("status of 401")
        page.get_by_role("button", name="Se déconnecter", exact=True).click()
        page.get_by_role("tab", name="Opérateur").click()
        found += _barriers(page, "sign-in") + page.evaluate(CUT)
    assert found == []


def _barriers(page: Page, screen: str, *rules: str) -> list[str]:
    """What axe-core finds serious or critical, of all its rules or of these."""
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = {"type": "rule", "values": rules}
    if not page.evaluate("Boolean(window.axe)"):
        page.evaluate(AXE_SCRIPT)
    found = page.evaluate("(options) => axe.run(options).then(({ violations }) => violations)", options)
    return [
        f"{screen}: {rule['id']}: {rule['nodes'][0]['html'][:160]}"
        for rule in found
        if rule["impact"] in {"serious", "critical"}
    ]


def test_the_keyboard_is_enough(site: Site, browser: Browser) -> None:
    number = site.customer("Keyboard Kim", "Do you have vegan pastries?")
    site.sent_to(number)
    with entered(site, browser) as (page, _):
        expect(page.locator(".row").first).to_be_visible()
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_contain_text("Keyboard shortcuts")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
        page.keyboard.press("j")
        expect(page.locator(".thread-who h1")).to_have_text("Keyboard Kim")
        expect(page.locator(".message.by-bot").first).to_be_visible()
        page.keyboard.press("t")
        expect(page.get_by_role("button", name="Give back to the bot")).to_be_visible()
        page.keyboard.press("r")
        page.keyboard.type("Hello")
        page.keyboard.press("Enter")
        expect(page.locator(".message.by-human .text")).to_have_text("Hello")
        page.keyboard.press("Escape")
        page.keyboard.press("g")
        page.keyboard.press("b")
        expect(page.get_by_role("heading", name="Bot profile")).to_be_visible()


def test_it_speaks_french(site: Site, browser: Browser) -> None:
    with entered(site, browser, locale="fr-FR") as (page, _):
        expect(page.get_by_role("link", name="À traiter")).to_be_visible()
        assert page.locator("html").get_attribute("lang") == "fr"
        page.get_by_role("button", name="Moi").click()
        page.get_by_role("button", name="English").click()
        expect(page.get_by_role("link", name="Needs a person")).to_be_visible()
        page.reload()
        expect(page.get_by_role("link", name="Needs a person")).to_be_visible()


def test_a_person_signs_in_with_the_key_and_out_again(site: Site, browser: Browser) -> None:
    with entered(site, browser) as (page, strict):
        strict.expect("status of 401")  # after signing out, and for the wrong key
        page.get_by_role("button", name="Me", exact=True).click()
        page.get_by_role("button", name="Sign out", exact=True).click()
        page.get_by_role("tab", name="Operator").click()
        page.get_by_label("Operator's key").fill("a-wrong-key")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_text(re.compile("That does not match"))).to_be_visible()
        page.get_by_label("Operator's key").fill(site.fleet.keys.admin)
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator(".rail")).to_be_visible()
        cookies = {cookie["name"]: cookie for cookie in page.context.cookies()}
        assert all(cookie["httpOnly"] and cookie["sameSite"] == "Strict" for cookie in cookies.values())
        page.reload()
        expect(page.locator(".rail")).to_be_visible()


WEIGHTS = """performance.getEntriesByType("resource").concat(performance.getEntriesByType("navigation"))
  .filter((entry) => entry.name.includes("/console")).map((entry) => entry.transferSize)"""


def test_the_first_load_is_light_and_quick(site: Site, browser: Browser, within: Within) -> None:
    site.sent_to(site.customer("Flora First", "Where can I park?"))
    with entered(site, browser) as (page, _):
        expect(page.locator(".row").first).to_be_visible()
        sizes = page.evaluate(WEIGHTS)
        assert 10 < len(sizes) < 60
        assert sum(sizes) <= 150_000, sum(sizes)
        with opened(browser, storage_state=page.context.storage_state()) as (_, second, _):  # no cache
            second.goto(f"{site.url}/console#/inbox/{site.account['id']}/all")
            second.locator(".row").first.wait_for()
            shown = second.evaluate("performance.now()")
        print(f"first load: {sum(sizes)} bytes in {len(sizes)} files; the list after {shown:.0f} ms")
        assert shown <= within(1.0) * 1000
