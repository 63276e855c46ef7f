"""One fleet behind the shipped balancer and one browser for the whole folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.support.balancer import HAPROXY, balancer
from tests.support.replica import JWT_SECRET
from tests.support.site import CHROMIUM, Site
from tests.support.supabase_people import PUBLISHABLE_KEY, supabase_people_aside
from tests.support.world import running_fleet

REPLICAS = 3


@pytest.fixture(scope="package")
def chromium() -> str:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (Debian: apt install chromium)")
    return CHROMIUM


@pytest.fixture(scope="package")
def site(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("site")
    with ExitStack() as stack:
        people = stack.enter_context(supabase_people_aside())
        settings = {
            "DEBOUNCE_SECONDS": "0.15", "WHATSAPP_MESSAGES_PER_SECOND": "1000", "DRAIN_SECONDS": "0",
            "SUPABASE_URL": people.url, "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY, "SUPABASE_JWT_SECRET": JWT_SECRET,
        }  # fmt: skip
        servers, fleet = stack.enter_context(running_fleet(settings, replicas=REPLICAS))
        http = stack.enter_context(httpx.Client(timeout=30))
        made = Site(servers, fleet, fleet.replicas[0].url, http, fleet.replicas[0].url, people)
        made.mend()
        made.account = made.new_account("Maison Levain")
        if HAPROXY is not None:
            front = stack.enter_context(balancer([replica.port for replica in fleet.replicas], folder))
            made.url, made.operators_url = front.url, front.operators_url
        yield made


@pytest.fixture(autouse=True)
def _mended(site: Site) -> Iterator[None]:
    yield
    site.mend()


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Chromium's own sandbox cannot be had as root, which containers run tests as.
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()
