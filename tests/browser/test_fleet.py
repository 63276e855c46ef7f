"""The operator's pages in a real browser: circuits are forced, dead letters put back, faults rehearsed."""

from __future__ import annotations

import re

from playwright.sync_api import Browser, Page, expect

from app.sandbox.webhooks import Business, Person, envelope, messages_change
from app.sandbox.webhooks import text as text_message
from tests.support.balancer import needs_haproxy
from tests.support.site import Site, entered, until


def answer(page: Page, text: str | None = None) -> None:
    """The open dialog, with yes."""
    dialog = page.get_by_role("dialog")
    if text:
        dialog.get_by_role("textbox").fill(text)
    dialog.locator("button[type=submit]").click()


@needs_haproxy
def test_the_public_address_says_where_the_fleet_is_shown(site: Site, browser: Browser) -> None:
    with entered(site, browser) as (page, strict):
        strict.expect("status of 404")
        page.goto(f"{site.url}/console#/fleet")
        expect(page.get_by_role("heading", name="The fleet is not shown at this address")).to_be_visible()
        expect(page.locator("main")).to_contain_text("port-forward service/chorus 8081:80")
        expect(page.get_by_role("alert")).to_have_count(0)


def test_a_circuit_is_forced_with_a_reason_and_given_back(site: Site, browser: Browser) -> None:
    with entered(site, browser, "#/fleet", url=site.operators_url) as (page, _):
        expect(page.get_by_role("row")).to_have_count(1 + len(site.fleet.replicas))
        circuit = page.locator(".circuit").filter(has_text="gemini")
        circuit.get_by_role("button", name="Force open").click()
        answer(page, "<b>maintenance</b> of the model")
        expect(circuit).to_contain_text("Forced")
        expect(circuit).to_contain_text("<b>maintenance</b> of the model (operator)")
        assert site.api("GET", "/admin/breakers")["gemini"]["state"] == "open"
        circuit.get_by_role("button", name="Let it decide").click()
        answer(page, "it is back")
        expect(circuit).not_to_contain_text("Forced")
        assert site.api("GET", "/admin/breakers")["gemini"]["state"] == "closed"


def test_dead_letters_are_filtered_looked_at_put_back_and_dropped(site: Site, browser: Browser) -> None:
    person = Person("33629999999", "Secret Name")
    change = messages_change(Business("8000999999"), [text_message(person, "secret words")], [person])
    site.deliver(envelope(change))  # of a number that no account has
    until(lambda: site.api("GET", "/admin/dead-letters")["items"])
    with entered(site, browser, "#/fleet/queue", url=site.operators_url) as (page, _):
        page.get_by_label("Filter by reason").fill("8000999999")
        page.get_by_role("button", name="View").first.click()
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("8000999999")
        assert "secret words" not in page.content()
        assert "Secret Name" not in page.content()
        dialog.get_by_role("button", name="Close").click()
        page.get_by_label("Choose all").check()
        page.get_by_role("button", name="Put back").click()
        answer(page)
        expect(page.get_by_text("on its way again")).to_be_visible()
        until(lambda: site.api("GET", "/admin/dead-letters")["items"])
        page.reload()
        page.get_by_label("Choose all").check()
        page.get_by_role("button", name="Drop").click()
        answer(page)
        expect(page.get_by_text("Nothing was given up on.")).to_be_visible()
        assert site.api("GET", "/admin/dead-letters")["items"] == []


def test_a_fault_is_rehearsed_and_what_waits_is_shown_by_account(site: Site, browser: Browser) -> None:
    with entered(site, browser, "#/fleet/rehearsal", url=site.operators_url) as (page, _):
        fault = page.get_by_role("listitem").filter(has_text="Gemini is away")
        fault.get_by_role("button", name="Begin").click()
        expect(fault).to_contain_text("Running")
        for name in ("Ida", "Jan", "Kim"):
            site.customer(name, "Do you have vegan pastries?")
        expect(fault).to_contain_text(re.compile(r"[1-9]\d* calls? hit"))
        page.get_by_role("link", name="Queue").click()
        row = page.get_by_role("row").filter(has_text="Maison Levain")
        expect(row).to_be_visible()
        page.get_by_role("link", name="Rehearsal").click()
        page.get_by_role("button", name="End all faults").click()
        expect(page.get_by_text("Running")).to_be_hidden()
        site.api("POST", "/admin/breakers/gemini", {"action": "auto", "why": "the rehearsal is over"})
        until(lambda: not site.api("GET", "/admin/queue")["pending"], seconds=30)
