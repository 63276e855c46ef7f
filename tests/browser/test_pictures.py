"""Files in a real browser: they appear by themselves; a picture is looked at large, by keyboard and by mouse."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, Locator, expect

import app.sandbox
from app.sandbox import webhooks
from tests.support.site import Site, entered

FILES = Path(app.sandbox.__file__).parent / "files"
PHOTO = (FILES / "strawberry-cake.jpg").read_bytes()
SEEN = "A strawberry cake with two candles"
NUMBER = "33698000001"
PINCH = """image => {
  for (const [type, apart] of [["touchstart", 50], ["touchmove", 100]]) {
    const finger = (x, id) => new Touch({identifier: id, target: image, clientX: 300 + x, clientY: 300});
    const touches = [0, apart].map(finger);
    image.dispatchEvent(new TouchEvent(type, {touches, bubbles: true, cancelable: true}));
  }
}"""
"""Two fingers that move to twice the distance."""
VOICE = (FILES / "vegan.ogg").read_bytes()
HAS_COME = "image => image.complete && image.naturalWidth > 0"
PLAYED = """audio => new Promise((heard) => {
  audio.addEventListener("ended", () => heard(audio.duration), {once: true});
  audio.muted = true;
  audio.playbackRate = 8;
  audio.play();
})"""
"""Its length in seconds, once it was played to its end."""


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
        page.wait_for_function(HAS_COME, arg=large.element_handle())
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
        page.wait_for_function(HAS_COME, arg=large.element_handle())
        dialog.get_by_role("button", name="Actual size").click()
        large.hover()
        page.mouse.wheel(0, -400)
        page.wait_for_function("([image, than]) => image.clientWidth > than", arg=[large.element_handle(), 1.5 * own])
        page.keyboard.press("1")
        expect(dialog.get_by_text("100%")).to_be_visible()
        large.evaluate(PINCH)
        expect(dialog.get_by_text("200%")).to_be_visible()
        assert abs(width(large) - 2 * own) <= 1
        dialog.get_by_role("button", name="Close").click()
        expect(dialog).to_be_hidden()
        expect(thumbnail).to_be_focused()


def test_files_and_what_they_say_appear_in_the_open_thread_by_themselves(site: Site, browser: Browser) -> None:
    number = site.customer("Files Fay", "Hello")
    site.sent_to(number)
    conversation = site.conversation_of(number)["id"]
    with entered(site, browser, f"#/inbox/{site.account['id']}/all/{conversation}") as (page, _):
        expect(page.locator(".line")).to_have_count(0)
        spoken = "Do you have gluten-free bread?"
        site.send_file(number, "audio", VOICE + b"1", "audio/ogg", says=spoken, name="Files Fay", voice=True)
        expect(page.locator(".message.in audio")).to_be_visible()
        expect(page.locator(".message.in .description")).to_have_text(spoken)
        assert page.locator(".message.in audio").evaluate(PLAYED) > 0.5
        site.api("POST", f"/conversations/{conversation}/bot", {"enabled": False})
        caption = "[And] this one?"
        site.send_file(number, "image", PHOTO + b"1", "image/jpeg", says="", name="Files Fay", caption=caption)
        expect(page.locator(".message.in .picture img")).to_be_visible()
        site.send_file(number, "audio", b"#!AMR\n" + bytes(100), "audio/amr", says="", name="Files Fay", voice=True)
        expect(page.get_by_text("This browser cannot play it.")).to_be_visible()
        expect(page.locator(".message.in audio")).to_have_count(1)
        expect(page.locator(".message.in").last.get_by_role("link", name="Download")).to_be_visible()
        row = page.get_by_role("link", name="Files Fay").locator(".row-text")
        expect(row).to_have_text("Voice message")
        found = site.api("GET", f"/conversations/{conversation}/messages")["items"]
        for about in ("audio", "image"):
            wamid = next(each["wa_message_id"] for each in found[::-1] if each["type"] == about)
            person, shop = webhooks.Person(number, "Files Fay"), webhooks.Business(site.account["phone_number_id"])
            answer = webhooks.text(person, "Well?", context={"id": wamid})
            site.deliver(webhooks.envelope(webhooks.messages_change(shop, [answer], [person])))
        expect(page.locator("blockquote")).to_have_text([spoken, caption])
