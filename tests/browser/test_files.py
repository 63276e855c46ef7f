"""Files that a person sends to a customer, in a real browser."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, expect

import app.sandbox
from tests.support.site import Site, entered

FILES = Path(app.sandbox.__file__).parent / "files"


def test_a_picture_a_document_and_a_voice_message_go_out_with_their_words(site: Site, browser: Browser) -> None:
    number = site.customer("Paula <i>Files</i>", "Do you have vegan pastries?")
    site.sent_to(number)
    where = f"#/inbox/{site.account['id']}/all/{site.conversation_of(number)['id']}"
    with entered(site, browser, where) as (page, strict):
        expect(page.locator(".message.by-bot").first).to_be_visible()
        box = page.get_by_role("textbox", name="Write to the customer")
        ours = page.locator(".message.by-human")

        def send(name: str, words: str) -> None:
            with page.expect_file_chooser() as chooser:
                page.get_by_role("button", name="Attach a file").click()
            chooser.value.set_files(FILES / name)
            expect(page.locator(".composer-file")).to_contain_text(name)
            box.fill(words)
            box.press("Enter")
            expect(page.locator(".composer-file")).to_have_count(0)
            expect(box).to_have_value("")

        send("strawberry-cake.jpg", "Here is the <b>cake</b>")
        expect(ours.locator("img")).to_have_js_property("complete", value=True)
        assert ours.locator("img").evaluate("(image) => image.naturalWidth") > 0
        expect(ours.locator(".text")).to_have_text("Here is the <b>cake</b>")
        send("order.pdf", "Your order")
        expect(ours.nth(1)).to_contain_text("order.pdf")
        expect(ours.nth(1).get_by_role("link", name="Download")).to_be_visible()
        send("vegan.ogg", "Listen")
        expect(ours.locator("audio")).to_be_visible()
        sent = site.sent_to(number, 5)[1:]  # the voice message takes no caption: its words follow
        assert [(each["body"]["type"], each["text"]) for each in sent] == [
            ("image", "Here is the <b>cake</b>"), ("document", "Your order"), ("audio", ""), ("text", "Listen"),
        ]  # fmt: skip
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Attach a file").click()
        chooser.value.set_files({"name": "page.html", "mimeType": "text/html", "buffer": b"<script>alert(1)</script>"})
        strict.expect("status of 4")
        box.press("Enter")
        expect(page.get_by_text("Not sent.")).to_be_visible()
        page.get_by_role("button", name="Discard").last.click()
        expect(page.get_by_text("Not sent.")).to_be_hidden()
