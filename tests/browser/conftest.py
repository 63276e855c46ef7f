"""One fleet behind the shipped balancer and one browser for the whole folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.support.balancer import HAPROXY, balancer
from tests.support.site import CHROMIUM, Site
from tests.support.world import running_fleet

REPLICAS = 2


@pytest.fixture(scope="package")
def chromium() -> str:
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (Debian: apt install chromium)")
    return CHROMIUM


@pytest.fixture(scope="package")
def site(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    settings = {"DEBOUNCE_SECONDS": "0.15", "WHATSAPP_MESSAGES_PER_SECOND": "1000", "DRAIN_SECONDS": "0"}
    folder: Path = tmp_path_factory.mktemp("site")
    with running_fleet(settings, replicas=REPLICAS) as (servers, fleet), httpx.Client(timeout=30) as http:
        made = Site(servers, fleet, fleet.replicas[0].url, http, fleet.replicas[0].url)
        callbacks = {"urls": fleet.webhook_urls, "app_secret": fleet.keys.app_secret}
        made.sandbox("PUT", "/callbacks", callbacks)
        made.account = made.new_account("Maison Levain")
        if HAPROXY is None:
            yield made
            return
        with balancer([replica.port for replica in fleet.replicas], folder) as front:
            made.url, made.operators_url = front.url, front.operators_url
            yield made


@pytest.fixture(scope="package")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Chromium's own sandbox cannot be had as root, which containers run tests as.
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()
