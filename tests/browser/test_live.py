"""The live stream in a real browser: messages appear by themselves, also when the replica that serves them dies."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, expect

from app.localhost.fleet import Served
from tests.support.balancer import needs_haproxy
from tests.support.patience import Within
from tests.support.site import Site, entered, until

MESSAGES = 12
WATCH = """window.seenAt = {};
new MutationObserver(() => {
  for (const text of document.querySelectorAll(".message.in .text")) window.seenAt[text.textContent] ??= Date.now();
}).observe(document, {childList: true, subtree: true, characterData: true});"""
STREAM_ENDS_SECONDS = 40.0
"""Behind HAProxy a stream whose reader has left is noticed with the next heartbeat, 15 s after the last event."""
READERS = re.compile(r"^chorus_feed_readers ([\d.]+)", re.MULTILINE)


def seen_at(page: Page, text: str) -> float:
    """Unix seconds at which the open thread showed it."""
    page.wait_for_function("(text) => window.seenAt[text]", arg=text)
    return float(page.evaluate("(text) => window.seenAt[text]", text)) / 1000


def test_messages_appear_in_the_open_thread_within_half_a_second(site: Site, browser: Browser, within: Within) -> None:
    number = site.customer("Live Lea", "Do you have vegan pastries?")
    site.sent_to(number)
    where = f"#/inbox/{site.account['id']}/all/{site.conversation_of(number)['id']}"
    with entered(site, browser, where) as (page, _):
        page.evaluate(WATCH)
        expect(page.locator(".line")).to_have_count(0)
        delays = []
        for n in range(MESSAGES):
            site.say(number, f"message {n}", name="Live Lea")
            accepted = time.time()
            delays.append(seen_at(page, f"message {n}") - accepted)
        delays.sort()
        print(f"in the open thread after {delays[MESSAGES // 2]:.3f} s (median), {delays[-1]:.3f} s (longest)")
        assert delays[-2] <= within(0.5)
        expect(page.locator(".row").first).to_contain_text("Live Lea")


@needs_haproxy
def test_the_stream_goes_on_when_its_replica_is_killed(site: Site, browser: Browser, within: Within) -> None:
    number = site.customer("Kill Kai", "Do you have vegan pastries?")
    site.sent_to(number)
    where = f"#/inbox/{site.account['id']}/all/{site.conversation_of(number)['id']}"
    with entered(site, browser, where) as (page, strict):
        strict.expect("ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_EMPTY_RESPONSE", "/events", "status of 50")
        page.evaluate(WATCH)
        expect(page.locator(".line")).to_have_count(0)
        serving = until(lambda: _the_only_one_with_readers(site), seconds=STREAM_ENDS_SECONDS)
        # What it holds when it dies waits for its lease.
        until(lambda: not site.api("GET", "/admin/queue")["pending"])
        others = [f"{replica.url}/webhook/whatsapp" for replica in site.fleet.replicas if replica is not serving]
        site.sandbox("PUT", "/callbacks", {"urls": others, "app_secret": site.fleet.keys.app_secret})
        with killed(serving):
            began = time.time()
            texts = [f"after the kill {n}" for n in range(5)]
            for text in texts:
                site.say(number, text, name="Kill Kai")
            late = max(seen_at(page, text) for text in texts) - began
            expect(page.locator(".line")).to_have_count(0)
            print(f"live again {late:.1f} s after the kill")
            assert late <= within(3)
            lived = _shown(page)
            assert sorted(lived[-len(texts) :]) == texts
        # Two replicas took them side by side, so which one came first is theirs to say. But they say it once.
        page.reload()
        expect(page.locator(".message.in .text")).to_have_count(len(lived))
        assert _shown(page) == lived


@contextmanager
def killed(replica: Served) -> Iterator[None]:
    replica.kill()
    try:
        yield
    finally:
        replica.start()


def _shown(page: Page) -> list[str]:
    return page.locator(".message.in .text").all_text_contents()


def _the_only_one_with_readers(site: Site) -> Served | None:
    """Once the streams of the tests before have ended."""
    found = [replica for replica in site.fleet.replicas if _readers(site, replica.url)]
    return found[0] if len(found) == 1 else None


def _readers(site: Site, url: str) -> int:
    """Open streams of a replica."""
    page = site.http.get(f"{url}/metrics", headers={"Authorization": f"Bearer {site.fleet.keys.admin}"}).text
    return int(float(READERS.findall(page)[0]))
