"""A customer's picture in a real browser: large in a dialog, by the keyboard alone, by the mouse and by the wheel."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, Locator, expect

import app.sandbox
from tests.support.site import Site, entered

PHOTO = (Path(app.sandbox.__file__).parent / "files" / "strawberry-cake.jpg").read_bytes()
SEEN = "A strawberry cake with two candles"
NUMBER = "33698000001"


def width(image: Locator) -> float:
    """Of the picture as it is shown, in pixels."""
    return float(image.evaluate("image => image.getBoundingClientRect().width"))


def test_a_picture_is_looked_at_by_the_keyboard_and_by_the_mouse(site: Site, browser: Browser) -> None:
    site.send_file(NUMBER, "image", PHOTO, "image/jpeg", says=SEEN, name="Pia")
    site.sent_to(NUMBER)
    where = f"#/inbox/{site.account['id']}/all/{site.conversation_of(NUMBER)['id']}"
    with entered(site, browser, where) as (page, _):
        thumbnail = page.get_by_role("button", name=SEEN)
        thumbnail.focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        large = dialog.get_by_role("img", name=SEEN)
        expect(large).to_be_visible()
        own = float(large.evaluate("image => image.naturalWidth"))
        page.keyboard.press("1")
        expect(dialog.get_by_text("100%")).to_be_visible()
        assert width(large) == own
        page.keyboard.press("+")
        expect(dialog.get_by_text("125%")).to_be_visible()
        assert abs(width(large) - 1.25 * own) <= 1
        for _ in range(12):
            page.keyboard.press("+")
        expect(dialog.get_by_text("800%")).to_be_visible()
        box = large.locator("..")
        before = box.evaluate("box => box.scrollLeft")
        page.keyboard.press("ArrowRight")
        page.wait_for_function("([box, x]) => box.scrollLeft > x", arg=[box.element_handle(), before])
        page.keyboard.press("0")
        expect(dialog.get_by_role("button", name="Fit")).to_have_attribute("aria-pressed", "true")
        assert box.evaluate("box => box.scrollWidth <= box.clientWidth && box.scrollHeight <= box.clientHeight")
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(thumbnail).to_be_focused()

        thumbnail.click()
        dialog.get_by_role("button", name="100 %").click()
        large.hover()
        page.mouse.wheel(0, -400)
        page.wait_for_function("([image, than]) => image.clientWidth > than", arg=[large.element_handle(), 1.5 * own])
        dialog.get_by_role("button", name="Close").click()
        expect(dialog).to_be_hidden()
        expect(thumbnail).to_be_focused()
