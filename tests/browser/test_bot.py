"""The bot's page in a real browser: a profile is edited, refused, guarded, saved, and answers with it."""

from __future__ import annotations

from playwright.sync_api import Browser, expect

from app.demo.bakery import BAKERY
from tests.support.site import Site, entered


def test_an_edit_is_kept_from_getting_lost_refused_at_its_field_and_seen_by_the_next_answer(
    site: Site, browser: Browser
) -> None:
    account = site.new_account("Chez Lucie")
    with entered(site, browser, f"#/bot/{account['id']}") as (page, strict):
        strict.expect("/bot/profile")  # the refusal
        name = page.get_by_role("textbox", name="Name of the business")
        expect(name).to_have_value("Maison Levain")
        name.fill("Boulangerie <b>Lucie</b>")
        page.get_by_role("link", name="Inbox").click()
        page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        expect(name).to_have_value("Boulangerie <b>Lucie</b>")
        choice = page.get_by_label("Account", exact=True)
        choice.select_option(site.account["id"])
        page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        expect(choice).to_have_value(account["id"])
        number = page.get_by_role("textbox", name="Number that is told")
        number.fill("not a number")
        page.get_by_role("button", name="Save").click()
        expect(number).to_have_attribute("aria-invalid", "true")
        expect(number).to_be_focused()
        number.fill("")
        page.get_by_text("All of it as JSON").click()
        whole = page.get_by_role("textbox", name="Questions, offers and rules: JSON")
        whole.fill("{")
        expect(page.get_by_text("This is not valid JSON")).to_be_visible()
        expect(page.get_by_role("button", name="Save")).to_be_disabled()
        faq = '{"faq": [{"question": "Do you have vegan pastries?", "answer": "Only the fig tart."}]}'
        whole.fill(faq)
        answer = page.get_by_label("Answer", exact=True)
        expect(answer).to_have_count(1)
        expect(answer).to_have_value("Only the fig tart.")
        question = page.get_by_label("Question", exact=True)
        question.fill("")  # to be written anew: the row stays, and so does its answer
        expect(whole).to_have_value("{}")
        question.fill("Do you have vegan pastries?")
        expect(answer).to_have_value("Only the fig tart.")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("Saved: every replica")).to_be_visible()
        expect(page.get_by_text("Unsaved")).to_be_hidden()
        customer = site.customer("Zoé", "Do you have vegan pastries?", account=account)
        assert "fig tart" in site.sent_to(customer)[0]["text"]


def test_hours_own_fields_offers_and_rules_are_edited_without_writing_json(site: Site, browser: Browser) -> None:
    account = site.new_account("Chez Momo", business_hours=None)
    with entered(site, browser, f"#/bot/{account['id']}") as (page, _):
        page.get_by_role("button", name="Set hours").click()
        page.get_by_label("Monday: to", exact=True).fill("12:30")
        page.get_by_role("button", name="Monday: add hours").click()
        page.get_by_label("Date of an exception").fill("2026-12-25")
        page.get_by_role("button", name="Add a date").click()
        page.get_by_role("button", name="Add a field").click()
        page.get_by_label("Label", exact=True).last.fill("terrace")
        page.get_by_label("Value", exact=True).last.fill("in summer")
        page.get_by_role("checkbox", name="Video").uncheck()
        page.get_by_label("Pages of a PDF, at most").fill("20")
        page.get_by_label("Megabytes of files").fill("2.5")
        page.get_by_label("Price", exact=True).nth(2).fill("40 EUR")
        page.get_by_role("button", name="Add an offer").click()
        page.get_by_label("Offer", exact=True).last.fill("Fig tart")
        page.get_by_label("When to call a person").fill("")
        special = page.get_by_label("Special rules")
        special.fill("")
        special.fill("Never promise a table.")
        page.get_by_label("Rules for the bot").fill("Be kind.\n\n Be brief. ")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("Saved: every replica")).to_be_visible()
        profile = site.api("GET", f"/bot/profile?account_id={account['id']}")
        assert profile["business_hours"]["weekly"]["monday"] == [["09:00", "12:30"], ["09:00", "18:00"]]
        assert profile["business_hours"]["exceptions"] == {"2026-12-25": []}
        assert profile["media_kinds"] == ["image", "sticker", "audio", "document"]
        assert profile["media_max_pages"] == 20
        assert profile["media_max_bytes"] == 2_500_000
        parts, before = profile["template_config"], BAKERY["template_config"]
        assert parts["offers"][2:] == [
            {"name": "Strawberry cake, 8 people", "price": "40 EUR", "season": "April to September"},
            before["offers"][3],
            {"name": "Fig tart", "price": ""},
        ]
        assert parts["system_rules"] == ["Be kind.", "Be brief."]
        assert parts["special_rules"] == ["Never promise a table."]
        changed = {"offers": None, "system_rules": None, "special_rules": None, "escalation": None}
        assert "escalation" not in parts
        assert parts | changed == before | changed, "what was not touched is as it was"
        assert profile["custom_fields"]["terrace"] == "in summer"
        assert profile["custom_fields"]["payment"] == ["cash", "card", "meal vouchers"]


def test_the_unsaved_profile_answers_in_the_simulator_and_nothing_is_stored(site: Site, browser: Browser) -> None:
    account = site.new_account("Chez Nour")
    with entered(site, browser, f"#/bot/{account['id']}") as (page, _):
        page.get_by_label("Answer", exact=True).nth(1).fill("Only <b>unsaved</b> ones.")
        page.get_by_role("textbox", name="Write as a customer").fill("Do you have vegan pastries?")
        page.keyboard.press("Enter")
        expect(page.locator(".sim-turns .by-bot .text")).to_contain_text("Only <b>unsaved</b> ones.")
        assert site.api("GET", f"/conversations?account_id={account['id']}")["items"] == []
        expect(page.locator(".sim-prompt pre")).to_be_hidden()
        page.get_by_text("What the model was told").click()
        expect(page.locator(".sim-prompt pre")).to_contain_text("Only <b>unsaved</b> ones.")
        expect(page.locator(".sim-prompt dd")).to_have_text(["Do you have vegan pastries?"])
        page.get_by_role("button", name="Discard").click()
