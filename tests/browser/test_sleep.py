"""A laptop that slept, in a real browser: its timers stood still, its line died without an error, its session ended."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from playwright.sync_api import Browser, Page, expect

from tests.support.site import Site, entered

DEAD_LINE = """const ask = window.fetch;
let isFirst = true;
window.fetch = (path, options) => {
  if (!isFirst || !String(path).startsWith("/events")) return ask(path, options);
  isFirst = false;
  const body = new ReadableStream({
    start(line) {
      line.enqueue(new TextEncoder().encode("retry: 1000\\n\\n"));
      options.signal.addEventListener("abort", () => line.error(options.signal.reason));
    },
  });
  return Promise.resolve(new Response(body, { headers: { "Content-Type": "text/event-stream" } }));
};"""
"""The first stream says hello, and never a word again."""


def where_it_is_noon() -> str:
    """A time zone: what was written today is from yesterday a day later, also around midnight in UTC."""
    east = 12 - datetime.now(UTC).hour
    return f"Etc/GMT{-east:+d}"  # its names count to the west


def sleep(page: Page, *, hours: int) -> None:
    """The clock goes on and the timers do not, as in a closed laptop; then it is opened."""
    page.clock.set_system_time(datetime.now(UTC) + timedelta(hours=hours))
    page.clock.run_for(6000)


def sign_in_again(page: Page, site: Site) -> None:
    expect(page.get_by_text("Your session has ended.")).to_be_visible()
    page.get_by_role("tab", name="Operator").click()
    page.get_by_label("Operator's key").fill(site.fleet.keys.admin)
    page.get_by_role("button", name="Sign in").click()


def test_a_laptop_that_slept_is_up_to_date_again_and_loses_nothing(site: Site, browser: Browser) -> None:
    account = site.new_account("Chez Siesta")
    number = site.customer("Sleepy Sam", "Do you have vegan pastries?", account=account)
    site.sent_to(number)
    thread = f"#/inbox/{account['id']}/all/{site.conversation_of(number, account=account)['id']}"
    with entered(site, browser, thread, timezone_id=where_it_is_noon()) as (page, strict):
        strict.expect("status of 401")
        page.add_init_script(DEAD_LINE)
        page.clock.install()
        page.reload()
        expect(page.locator(".message.by-bot").first).to_be_visible()
        expect(page.locator(".line")).to_have_count(0)
        expect(page.locator(".window")).to_contain_text(re.compile("2[34] h"))
        site.say(number, "And croissants?", name="Sleepy Sam", account=account)
        site.sent_to(number, 2)
        expect(page.locator(".message.in")).to_have_count(1)

        sleep(page, hours=8)
        expect(page.locator(".message.in")).to_have_count(2)
        expect(page.locator(".window")).to_contain_text(re.compile("1[56] h"))

        page.get_by_role("link", name="Bot", exact=True).click()
        name = page.get_by_role("textbox", name="Name of the business")
        name.fill("Boulangerie Sieste")
        page.context.clear_cookies()
        sleep(page, hours=24)
        sign_in_again(page, site)
        expect(name).to_have_value("Boulangerie Sieste")
        page.get_by_role("button", name="Discard").click()
        expect(name).to_have_value("Maison Levain")
        page.get_by_role("link", name="Inbox").click()
        page.get_by_role("link", name="Sleepy Sam").click()
        expect(page.locator(".day")).to_have_text("Yesterday")
        expect(page.locator(".window")).to_have_class("window closed")
