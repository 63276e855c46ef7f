"""The inbox in a real browser: a customer's message arrives, a person takes over and answers."""

from __future__ import annotations

from playwright.sync_api import Browser, expect

from tests.support.site import Site, entered, until


def test_a_person_takes_over_answers_and_gives_back(site: Site, browser: Browser) -> None:
    number = site.customer("Amina <b>Diallo</b>", "Do you have *vegan* pastries?")
    site.sent_to(number)
    with entered(site, browser) as (page, _):
        page.get_by_role("link", name="Amina <b>Diallo</b>").click()
        expect(page.locator(".message.in b")).to_have_text("vegan")
        expect(page.locator(".message.by-bot .text")).to_contain_text("vegan every day")
        page.get_by_role("button", name="Take over").click()
        expect(page.get_by_role("button", name="Give back to the bot")).to_be_visible()
        until(lambda: not site.conversation_of(number)["bot_enabled"])
        page.keyboard.press("r")
        page.keyboard.type("Claire here: come in until seven.")
        page.keyboard.press("Enter")
        expect(page.locator(".message.by-human .text")).to_have_text("Claire here: come in until seven.")
        assert site.sent_to(number, 2)[-1]["text"] == "Claire here: come in until seven."
        page.get_by_role("button", name="Give back to the bot").click()
        expect(page.get_by_role("button", name="Take over")).to_be_visible()
        until(lambda: site.conversation_of(number)["bot_enabled"])


def test_on_a_phone_enter_ends_a_line_and_the_button_sends(site: Site, browser: Browser) -> None:
    number = site.customer("Tiago Touch", "Do you deliver?")
    site.sent_to(number)
    where = f"#/inbox/{site.account['id']}/all/{site.conversation_of(number)['id']}"
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    with entered(site, browser, where, **phone) as (page, _):
        page.get_by_role("textbox", name="Write to the customer").fill("Yes:")
        page.keyboard.press("Enter")
        page.keyboard.type("to Lyon 4")
        page.get_by_role("button", name="Send").tap()
        assert site.sent_to(number, 2)[-1]["text"] == "Yes:\nto Lyon 4"


def test_a_send_that_failed_is_repeated_under_its_key_and_a_draft_is_kept(site: Site, browser: Browser) -> None:
    number = site.customer("Bruno", "Can I reserve bread?")
    site.sent_to(number)
    with entered(site, browser, f"#/inbox/{site.account['id']}/all/{site.conversation_of(number)['id']}") as (
        page,
        strict,
    ):
        strict.expect("/messages", "ERR_FAILED")
        keys: list[str] = []
        page.on("request", lambda request: keys.append(request.headers.get("idempotency-key", "")))
        box = page.get_by_role("textbox", name="Write to the customer")
        box.fill("We keep one for you")
        page.reload()
        expect(box).to_have_value("We keep one for you")
        page.route("**/messages", lambda route: route.abort() if route.request.method == "POST" else route.continue_())
        box.press("Enter")
        expect(page.get_by_text("Not sent.")).to_be_visible()
        page.unroute("**/messages")
        page.get_by_role("button", name="Send again").click()
        assert [entry["text"] for entry in site.sent_to(number, 2)][1:] == ["We keep one for you"]
        expect(page.get_by_text("Not sent.")).to_be_hidden()
        used = [key for key in keys if key]
        assert len(used) == 2
        assert len(set(used)) == 1
