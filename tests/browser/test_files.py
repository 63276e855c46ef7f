"""Files that a person sends to a customer, in a real browser."""

from __future__ import annotations

import base64
from pathlib import Path

from playwright.sync_api import Browser, expect

import app.sandbox
from tests.support.site import Site, entered

FILES = Path(app.sandbox.__file__).parent / "files"
GIVE = """([how, names, base64]) => {
  const given = new DataTransfer();
  const bytes = Uint8Array.from(atob(base64), (each) => each.charCodeAt(0));
  const types = {pdf: "application/pdf", jpg: "image/jpeg"};
  for (const name of names) given.items.add(new File([bytes], name, {type: types[name.split(".").at(-1)]}));
  const event = how === "paste" ? new ClipboardEvent(how, {clipboardData: given, bubbles: true, cancelable: true})
    : new DragEvent(how, {dataTransfer: given, bubbles: true, cancelable: true});
  (how === "paste" ? document.querySelector("textarea") : document.querySelector(".messages")).dispatchEvent(event);
  return event.defaultPrevented;
}"""
"""Files that are pasted, or dragged over the page and dropped."""


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


def test_files_are_pasted_and_dropped_and_go_out_in_their_order(site: Site, browser: Browser) -> None:
    number = site.customer("Paul Paste", "Do you have vegan pastries?")
    site.sent_to(number)
    where = f"#/inbox/{site.account['id']}/all/{site.conversation_of(number)['id']}"
    photo = base64.b64encode((FILES / "strawberry-cake.jpg").read_bytes()).decode()
    with entered(site, browser, where) as (page, _):
        expect(page.locator(".message.by-bot").first).to_be_visible()
        waiting = page.locator(".composer-file")
        assert page.evaluate(GIVE, ["paste", ["one.jpg", "two.jpg"], photo])
        expect(waiting).to_have_count(2)
        expect(waiting.locator("img").first).to_have_js_property("naturalWidth", 320)
        page.evaluate("where => { location.hash = where }", f"#/inbox/{site.account['id']}/all")
        expect(waiting).to_have_count(0)
        page.evaluate("where => { location.hash = where }", where)
        expect(waiting).to_have_count(2)  # as a draft of words
        expect(page.locator(".message.by-bot").first).to_be_visible()
        assert page.evaluate(GIVE, ["dragover", ["three.pdf"], photo])
        expect(page.get_by_text("Drop files here to attach them")).to_be_visible()
        pdf = base64.b64encode((FILES / "order.pdf").read_bytes()).decode()
        assert page.evaluate(GIVE, ["drop", ["three.pdf"], pdf])
        expect(page.get_by_text("Drop files here to attach them")).to_be_hidden()
        expect(waiting).to_have_count(3)
        waiting.nth(1).get_by_role("button", name="Remove the file").click()
        expect(waiting).to_have_count(2)
        assert page.evaluate(GIVE, ["paste", ["large.jpg"], "A" * 8_000_000])
        expect(page.get_by_text("large.jpg is larger than 5.2 MB")).to_be_visible()
        expect(waiting).to_have_count(2)
        box = page.get_by_role("textbox", name="Write to the customer")
        box.fill("x" * 1025)
        expect(page.get_by_text("-1", exact=True)).to_be_visible()
        expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
        box.fill("Two of them")
        box.press("Enter")
        expect(waiting).to_have_count(0)
        expect(page.locator(".message.by-human .picture img")).to_be_visible()
        expect(page.locator(".message.by-human").get_by_text("three.pdf")).to_be_visible()
        sent = site.sent_to(number, 3)[1:]
        assert [(each["body"]["type"], each["text"]) for each in sent] == [("image", "Two of them"), ("document", "")]
