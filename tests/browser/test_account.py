"""The account's page in a real browser: keys, webhooks, people, settings, a customer's rights."""

from __future__ import annotations

from playwright.sync_api import Browser, expect

from tests.support.site import Site, entered, until


def test_a_key_is_shown_once_and_revoked(site: Site, browser: Browser) -> None:
    with entered(site, browser, f"#/account/{site.account['id']}/keys") as (page, _):
        page.get_by_role("button", name="New key").click()
        page.get_by_label("Name").fill("<i>our CRM</i>")
        page.get_by_role("button", name="Make the key").click()
        key = page.locator(".secret code").text_content() or ""
        assert key.startswith("chorus_")
        page.get_by_role("button", name="Done").click()
        row = page.get_by_role("row").filter(has_text="<i>our CRM</i>")
        expect(row).to_be_visible()
        assert key not in page.content()
        row.get_by_role("button", name="Revoke").click()
        page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
        expect(row).to_be_hidden()


def test_a_webhook_is_made_tested_and_deleted(site: Site, browser: Browser) -> None:
    with entered(site, browser, f"#/account/{site.account['id']}/webhooks") as (page, strict):
        strict.expect("/webhooks")  # the refusal of a URL that is not https
        page.get_by_role("button", name="New webhook").click()
        page.get_by_label("Address").fill("http://crm.example/chorus")
        page.get_by_role("button", name="Add").click()
        expect(page.locator(".dialog .field-error")).to_be_visible()
        page.get_by_label("Address").fill("https://crm.invalid/chorus")
        page.get_by_role("button", name="Add").click()
        expect(page.locator(".secret code")).to_contain_text("whsec_")
        page.get_by_role("button", name="Done").click()
        page.get_by_role("button", name="Send a test").click()
        expect(page.locator(".toast")).to_contain_text("Not reachable")
        page.get_by_role("button", name="Delete").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(page.get_by_text("No system is told yet.")).to_be_visible()


def test_a_switch_and_a_token_reach_the_account_and_people_are_listed(site: Site, browser: Browser) -> None:
    account = site.new_account("Chez Nadia")
    site.api("PUT", f"/accounts/{account['id']}/members/7d0c9f6e-0000-4000-8000-000000000001", {"role": "agent"})
    with entered(site, browser, f"#/account/{account['id']}/health") as (page, _):
        page.get_by_text("The bot answers in new conversations").click()
        expect(page.get_by_text("Saved.")).to_be_visible()
        page.get_by_role("button", name="Replace the access token").click()
        page.get_by_label("New access token").fill("another-token-of-the-sandbox")
        page.get_by_role("button", name="Replace", exact=True).click()
        expect(page.get_by_text("The token is replaced")).to_be_visible()
        (stored,) = [one for one in site.api("GET", "/accounts") if one["id"] == account["id"]]
        assert stored["bot_auto_on"] is False
        page.get_by_role("link", name="People").click()
        page.get_by_label("Role of 7d0c9f6e-0000-4000-8000-000000000001").select_option("viewer")
        until(lambda: site.api("GET", f"/accounts/{account['id']}/members")[0]["role"] == "viewer")


def test_a_customer_is_found_handed_out_and_erased(site: Site, browser: Browser) -> None:
    account = site.new_account("Chez Odile")
    number = site.customer("Paul Ancel", "Do you have vegan pastries?", account=account)
    site.sent_to(number)
    with entered(site, browser, f"#/account/{account['id']}/customers") as (page, _):
        page.get_by_label("Name or number").fill(number)

        def found() -> bool:
            """What is new is found after a moment."""
            with page.expect_response("**/conversations?*"):
                page.get_by_role("button", name="Find").click()
            return page.get_by_role("button", name="Export").is_visible()

        until(found)
        with page.expect_download() as download:
            page.get_by_role("button", name="Export").click()
        assert number in download.value.path().read_text(encoding="utf-8")
        page.get_by_role("button", name="Erase").click()
        page.get_by_role("dialog").get_by_role("textbox").fill("ERASE")
        page.get_by_role("dialog").get_by_role("button", name="Erase").click()
        expect(page.get_by_text("Paul Ancel is erased.")).to_be_visible()
        assert site.api("GET", f"/conversations?account_id={account['id']}")["items"] == []
