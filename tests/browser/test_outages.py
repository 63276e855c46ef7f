"""The console while Redis or the database is away: words in place of blank pages, and recovery by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Locator, Page, expect

from app.localhost.server import Server
from tests.support.site import Site, entered

PATIENCE_MS = 20_000


def card(page: Page, title: str) -> Locator:
    return page.locator("section.card").filter(has=page.get_by_role("heading", name=title, exact=True))


@contextmanager
def away(server: Server) -> Iterator[None]:
    server.stop()
    try:
        yield
    finally:
        server.start()


def test_without_redis_the_fleet_says_so_and_shows_what_is_known(site: Site, browser: Browser) -> None:
    with entered(site, browser, "#/fleet", url=site.operators_url) as (page, strict):
        strict.expect("status of 503", "/events")
        replicas, circuits, needs = card(page, "Replicas"), card(page, "Circuits"), card(page, "What it depends on")
        expect(replicas.get_by_role("row")).to_have_count(1 + len(site.fleet.replicas))
        expect(circuits.get_by_role("button", name="Force open").first).to_be_visible()
        with away(site.servers.valkey):
            expect(needs).to_contain_text("Meta delivers them again", timeout=PATIENCE_MS)
            expect(replicas.get_by_role("alert")).to_contain_text(re.compile(r"what was known at \d\d:\d\d:\d\d"))
            expect(replicas.get_by_role("row")).to_have_count(1 + len(site.fleet.replicas))
            expect(circuits.get_by_text("This replica's own view").first).to_be_visible()
            expect(circuits.get_by_role("button")).to_have_count(0)  # no replica could be told
            page.reload()
            expect(page.get_by_role("alert")).to_contain_text("Redis cannot be reached")
        expect(replicas.get_by_role("row")).to_have_count(1 + len(site.fleet.replicas), timeout=PATIENCE_MS)
        expect(page.get_by_role("alert")).to_have_count(0, timeout=PATIENCE_MS)


def test_without_the_database_every_screen_has_words_and_comes_back(site: Site, browser: Browser) -> None:
    number = site.customer("Outage Olga", "Do you have vegan pastries?")
    site.sent_to(number)
    with entered(site, browser, url=site.operators_url) as (page, strict):
        strict.expect("status of 503", "/events")
        page.get_by_role("link", name="Fleet").click()
        expect(card(page, "What it depends on")).to_be_visible()
        with away(site.servers.postgres):
            expect(card(page, "What it depends on")).to_contain_text("wait in the queue", timeout=PATIENCE_MS)
            expect(card(page, "Replicas").get_by_text("Degraded").first).to_be_visible(timeout=PATIENCE_MS)
            page.get_by_role("link", name="Inbox").click()
            expect(page.get_by_role("alert")).to_contain_text("The database cannot be reached")
            page.reload()  # the operator comes in all the same, to the one screen that needs no account
            expect(page.get_by_role("alert")).to_contain_text("The database cannot be reached")
            page.get_by_role("link", name="Fleet").click()
            expect(card(page, "Replicas").get_by_role("row")).to_have_count(1 + len(site.fleet.replicas))
            page.get_by_role("link", name="Inbox").click()
        expect(page.locator(".row").filter(has_text="Outage Olga")).to_be_visible(timeout=PATIENCE_MS)
        expect(page.get_by_role("alert")).to_have_count(0)


def test_a_replica_that_fell_silent_is_told_from_one_that_ended_in_order(site: Site, browser: Browser) -> None:
    """With lists as they come one after the other: to kill and start real ones takes a minute."""

    def living(**silent_seconds: float) -> dict[str, object]:
        known = {"phase": "ready", "status": "ok", "role": "all", "version": "1"}
        return {"replicas": [{"id": id_, "silent_seconds": age, **known} for id_, age in silent_seconds.items()]}

    # The last one is true until the test goes on: on a slow machine the page may ask for it several times.
    lists = [living(stays=0.5, killed=0.5, ends=0.5)]
    with entered(site, browser, url=site.operators_url) as (page, _):
        page.route("**/admin/fleet", lambda route: route.fulfill(json=lists[-1]))
        page.clock.install()
        page.get_by_role("link", name="Fleet").click()
        rows = card(page, "Replicas").get_by_role("row")
        expect(rows).to_have_count(4)
        lists.append(living(stays=0.5, killed=5.2))
        page.clock.run_for(3100)
        expect(rows.filter(has_text="ends in order")).to_contain_text("ends")
        lists.append(living(stays=0.5))
        page.clock.run_for(3100)
        expect(rows.filter(has_text="without a goodbye")).to_contain_text("killed")
        expect(rows).to_have_count(4)
