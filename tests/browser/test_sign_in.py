"""Signing in, in a real browser: password, link by e-mail, invitation; and what is left when a session ends."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import Browser, Page, expect

from tests.support.site import Site, opened, until

ADA, BOB = "ada@example.com", "bob@example.com"


def member(site: Site, user: str, name: str) -> dict[str, Any]:
    """An account whose agent is `user`."""
    account = site.new_account(name)
    site.api("PUT", f"/accounts/{account['id']}/members/{user}", {"role": "agent"})
    return account


def sign_in(page: Page, email: str, password: str = "right") -> None:
    page.get_by_label("E-mail address").fill(email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_an_invited_person_signs_in_with_a_password_and_is_a_member(site: Site, browser: Browser) -> None:
    account = site.new_account("Chez Bob")
    token = site.api("POST", f"/accounts/{account['id']}/invitations", {"role": "agent"})["token"]
    with opened(browser) as (_, page, strict):
        strict.expect("status of 401")  # no session yet; the wrong password
        page.goto(f"{site.url}/console#invitation={token}")
        expect(page.get_by_text("You were invited to an account.")).to_be_visible()
        assert token not in page.url
        sign_in(page, BOB, "wrong")
        expect(page.get_by_text("That does not match.")).to_be_visible()
        sign_in(page, BOB)
        expect(page.get_by_text("You are a member now.")).to_be_visible()
        expect(page.get_by_role("heading", name="Chez Bob")).to_be_visible()
        assert [each["user_id"] for each in site.api("GET", f"/accounts/{account['id']}/members")] == ["bob"]
        expect(page.get_by_role("link", name="Fleet")).to_have_count(0)
        page.get_by_role("button", name="Me", exact=True).click()
        expect(page.locator(".popover")).to_contain_text(BOB)
        page.keyboard.press("g")
        page.keyboard.press("b")
        expect(page.get_by_role("heading", name="Bot profile")).to_be_visible()
        expect(page.locator(".popover")).to_have_count(0)


def test_a_link_by_mail_signs_in_and_an_old_one_says_what_to_do(site: Site, browser: Browser) -> None:
    member(site, "ada", "Chez Ada")
    with opened(browser) as (_, page, strict):
        strict.expect("status of 401")
        failed = {"error": "access_denied", "error_code": "otp_expired", "error_description": "Email link is invalid"}
        page.goto(f"{site.url}/console#{urlencode(failed)}")
        expect(page.get_by_role("alert")).to_contain_text("This link does not work any more")
        page.get_by_label("E-mail address").fill(ADA)
        page.get_by_role("button", name="Send me a link instead").click()
        expect(page.get_by_text("a link is on its way")).to_be_visible()
        until(lambda: site.people.mails)
        email, back_to = site.people.mails[-1]
        assert (email, back_to) == (ADA, f"{site.url}/console")
        page.goto("about:blank")
        page.goto(f"{back_to}#{urlencode(site.people.tokens(email) | {'type': 'magiclink'})}")
        expect(page.locator(".rail")).to_be_visible()
        assert "token" not in page.url


def test_signing_out_everywhere_ends_the_sessions_of_other_computers(site: Site, browser: Browser) -> None:
    account = member(site, "ada", "Chez Ada too")
    where = f"{site.url}/console#/inbox/{account['id']}/all"
    with opened(browser) as (_, page, strict), opened(browser) as (_, other, others):
        strict.expect("status of 401")
        others.expect("status of 401")
        for each in (page, other):
            each.goto(where)
            sign_in(each, ADA)
            expect(each.locator(".rail")).to_be_visible()
        page.get_by_role("button", name="Me", exact=True).click()
        page.get_by_role("button", name="Sign out everywhere").click()
        page.get_by_role("dialog").get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Password")).to_be_visible()
        expect(page.get_by_text("Your session has ended.")).to_have_count(0)
        other.get_by_role("link", name="Unread").click()
        expect(other.get_by_text("Your session has ended.")).to_be_visible()


def test_a_session_that_ends_while_a_person_writes_keeps_the_draft_for_them_alone(site: Site, browser: Browser) -> None:
    account = member(site, "ada", "Chez Ada again")
    site.api("PUT", f"/accounts/{account['id']}/members/bob", {"role": "agent"})
    number = site.customer("Draft Dora", "Do you have vegan pastries?", account=account)
    site.sent_to(number)
    where = f"#/inbox/{account['id']}/all/{site.conversation_of(number, account=account)['id']}"
    with opened(browser) as (profile, page, strict):
        strict.expect("status of 401")
        page.goto(f"{site.url}/console{where}")
        sign_in(page, ADA)
        box = page.get_by_role("textbox", name="Write to the customer")
        box.fill("We keep the last")
        box.press_sequentially(" two for you")
        profile.clear_cookies()
        site.say(number, "And croissants?", name="Draft Dora", account=account)
        expect(page.get_by_text("Your session has ended.")).to_be_visible()
        sign_in(page, ADA)
        expect(box).to_have_value("We keep the last two for you")
        assert page.url.endswith(where)
        expect(page.locator(".message.in")).to_have_count(2)
        profile.clear_cookies()
        page.reload()
        sign_in(page, BOB)
        expect(box).to_have_value("")
        expect(page.locator(".message.in").first).to_be_visible()
        assert not re.search("We keep", page.content())
