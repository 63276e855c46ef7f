"""What a person notices without looking, and what they see while there is no line."""

from __future__ import annotations

from playwright.sync_api import Browser, expect

from tests.support.site import Site, entered

NOTICES = """window.notices = [];
window.Notification = class {
  static permission = "default";
  static requestPermission = async () => (Notification.permission = "granted");
  constructor(title, options) { window.notices.push({ title, ...options, notice: this }); }
  close() {}
};
document.hasFocus = () => false;"""
"""A browser without a window has no desktop to show them on."""


def test_a_customer_who_needs_a_person_is_told_on_the_desktop_and_in_the_title(site: Site, browser: Browser) -> None:
    account = site.new_account("Chez Ravi", handover_keywords=["manager"])
    with entered(site, browser, f"#/inbox/{account['id']}/all") as (page, _):
        page.add_init_script(NOTICES)
        page.reload()
        page.get_by_role("button", name="Me", exact=True).click()
        page.get_by_text("Notify me on this computer").click()
        expect(page.get_by_role("switch")).to_be_checked()
        page.keyboard.press("Escape")
        assert page.title() == "Inbox · Chorus"
        expect(page.locator(".line")).to_have_count(0)
        site.customer("Nina Noor", "My <secret> order: the manager, please", account=account)
        page.wait_for_function("() => window.notices.length")
        page.wait_for_function("() => document.title === '(1) Inbox · Chorus'")
        told = page.evaluate("JSON.stringify(window.notices)")
        assert "A customer needs a person" in told
        assert "secret" not in told
        expect(page.get_by_role("link", name="Nina Noor")).to_be_visible()
        page.evaluate("window.notices[0].notice.onclick()")
        expect(page.locator(".thread-who h1")).to_have_text("Nina Noor")
        assert "/needs/" in page.url


def test_a_moment_without_a_line_is_told_in_words_and_made_up_for(site: Site, browser: Browser) -> None:
    number = site.customer("Offline Olga", "Do you have vegan pastries?")
    site.sent_to(number)
    where = f"#/inbox/{site.account['id']}/all/{site.conversation_of(number)['id']}"
    with entered(site, browser, where) as (page, strict):
        strict.expect("ERR_INTERNET_DISCONNECTED", "ERR_NETWORK_CHANGED")
        expect(page.locator(".message.by-bot").first).to_be_visible()
        expect(page.locator(".line")).to_have_count(0)
        page.context.set_offline(True)
        expect(page.get_by_text("You are offline.")).to_be_visible()
        box = page.get_by_role("textbox", name="Write to the customer")
        box.fill("One moment")
        box.press("Enter")
        expect(page.get_by_text("Not sent.")).to_be_visible()
        site.say(number, "Are you there?", name="Offline Olga")
        site.sent_to(number, 2)
        page.context.set_offline(False)
        expect(page.get_by_text("You are offline.")).to_be_hidden()
        expect(page.locator(".message.in").last).to_contain_text("Are you there?")
        page.get_by_role("button", name="Send again").click()
        assert site.sent_to(number, 3)[-1]["text"] == "One moment"
