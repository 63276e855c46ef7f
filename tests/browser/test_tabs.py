"""Two tabs of one person in a real browser: what is done in one of them is seen in the other."""

from __future__ import annotations

from playwright.sync_api import Browser, expect

from tests.support.site import Site, Strict, entered, until

FRONT = """isInFront => {
  Object.defineProperty(document, "visibilityState", { value: isInFront ? "visible" : "hidden", configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
"""A browser without a window shows every tab at once."""
ASIDE = """localStorage.setItem("chorus.notify", "yes");
document.hasFocus = () => false;
window.notices = [];
window.heard = [];
new BroadcastChannel("chorus.notices").onmessage = ({ data }) => window.heard.push(data);
window.Notification = class {
  static permission = "granted";
  constructor(title, { body }) { window.notices.push(body); }
};"""
"""A tab beside the one that is looked at."""


def test_what_is_done_in_one_tab_is_seen_in_the_other(site: Site, browser: Browser) -> None:
    account = site.new_account("Chez Tabea")
    number = site.customer("Tab Tom", "Do you have vegan pastries?", account=account)
    site.sent_to(number)
    thread = site.conversation_of(number, account=account)["id"]
    with entered(site, browser, f"#/inbox/{account['id']}/all/{thread}") as (page, strict):
        strict.expect("status of 401")  # of sign-in, after leaving
        other = page.context.new_page()
        others = Strict(other)
        others.expect("status of 401")
        other.goto(f"{site.url}/console#/inbox/{account['id']}/bot/{thread}")
        box = page.get_by_role("textbox", name="Write to the customer")
        mirror = other.get_by_role("textbox", name="Write to the customer")
        expect(mirror).to_be_visible()
        for each in (page, other):
            expect(each.locator(".line")).to_have_count(0)
        page.bring_to_front()  # where clicks need no wait for a frame
        box.fill("One moment, please")
        expect(mirror).to_have_value("One moment, please")

        page.get_by_role("button", name="Take over").click()
        # It is in the other tab's list no more, which shows what the bot holds.
        expect(other.get_by_role("button", name="Give back to the bot")).to_be_visible()
        expect(other.locator(".row")).to_have_count(0)

        box.press("Enter")
        expect(mirror).to_have_value("")
        expect(other.locator(".message.by-human .text")).to_have_text("One moment, please")

        page.evaluate(FRONT, False)
        other.goto(f"{site.url}/console#/inbox/{account['id']}/unread")
        site.say(number, "Are you there?", name="Tab Tom", account=account)
        expect(page.locator(".message.in").last).to_contain_text("Are you there?")
        expect(other.locator(".row.unread")).to_have_count(1)
        page.evaluate(FRONT, True)
        expect(other.locator(".row")).to_have_count(0)

        page.get_by_role("button", name="Me", exact=True).click()
        page.get_by_role("button", name="Sign out", exact=True).click()
        expect(other.get_by_text("You signed out in another tab.")).to_be_visible()
        other.bring_to_front()
        other.get_by_role("tab", name="Operator").click()
        other.get_by_label("Operator's key").fill(site.fleet.keys.admin)
        other.get_by_role("button", name="Sign in").click()
        expect(page.locator(".thread-who h1")).to_have_text("Tab Tom")
    assert others.problems == []


def test_a_tab_gives_no_notification_while_another_one_is_looked_at(site: Site, browser: Browser) -> None:
    account = site.new_account("Chez Tina", handover_keywords=["manager"])
    where = f"#/inbox/{account['id']}/all"
    with entered(site, browser, where) as (page, _):
        other = page.context.new_page()
        others = Strict(other)
        other.add_init_script(ASIDE)
        other.clock.install()
        other.goto(f"{site.url}/console{where}")
        for each in (page, other):
            expect(each.locator(".rail")).to_be_visible()
            expect(each.locator(".line")).to_have_count(0)
        # A time that is over when the page hears of it would be refused; 15 s would be taken for a laptop that slept.
        other.clock.pause_at(float(other.evaluate("Date.now() / 1000")) + 10)
        site.customer("First Fred", "The manager, please", account=account)
        until(lambda: other.evaluate("window.heard.length"))
        other.clock.run_for(2000)
        page.evaluate("document.hasFocus = () => false")
        site.customer("Second Sue", "The manager, please", account=account)

        def told() -> list[str]:
            other.clock.run_for(1000)
            return list(other.evaluate("window.notices"))

        assert until(told) == ["Second Sue is waiting."]
    assert others.problems == []
