"""Fixtures: a real Valkey and a real PostgreSQL, started once, when the first test asks for one of them."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import redis
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from app.adapters.migrations import apply_migrations
from app.core import http_client
from app.core.cache import CacheTimings
from app.core.circuit_breaker import CIRCUIT_BREAKERS, KEYED_CIRCUIT_BREAKERS
from app.localhost.location import Location, locate
from app.localhost.servers import Postgres, Valkey, remove_data
from app.localhost.valkey import CONFIG
from tests.support.patience import PATIENCE, Within
from tests.support.server_folder import server_folder

gc.disable()  # until all is collected: hardly any of it is garbage, and to look costs a fifth of the collection

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so; the programs that tests start, and interrupt, would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", deadline=None)
settings.load_profile("repeatable")  # a change is judged by what it does, not by luck; `make chaos` explores


FLEETS = (
    ("tests/chaos/",),
    ("tests/browser/", "tests/topologies/", "tests/e2e/test_upgrade.py"),  # it has a fleet of its own
    ("tests/e2e/",),
)
"""Whose tests hold real replicas to seconds: with `-n`, one worker plays what is in a line, one test after the other,
so that there are never more than three fleets at once. The three take about the same time."""


class _FleetsTogether(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return next((folders[0] for folders in FLEETS if nodeid.startswith(folders)), super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling:
    """Not `--dist loadgroup`: its marks have no effect since pytest 9.2 made the ids of tests read-only."""
    return _FleetsTogether(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Before a whole run of several workers, each imports its share of the modules, which compiles them where
    that is yet to be done: else all of them compile the same ones of a fresh clone at the same time."""
    worker = getattr(session.config, "workerinput", None)
    if worker is None or session.config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    modules = sorted((session.config.rootpath / "tests").rglob("test_*.py"))
    for path in modules[int(worker["workerid"].removeprefix("gw")) :: worker["workercount"]]:
        with suppress(Exception, pytest.skip.Exception):  # the collection tells it
            import_module(".".join(path.relative_to(session.config.rootpath).with_suffix("").parts))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fleets begin first: what takes longest must not begin last, when the other workers have nothing left to do."""
    order = [folder for folders in FLEETS for folder in folders]
    turns = {folder: turn for turn, folder in enumerate(order)}
    items.sort(key=lambda item: turns.get("/".join(item.nodeid.split("/")[:2]) + "/", len(order)))
    for item in items:
        if "within" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.bounded)


@pytest.fixture(autouse=True)
def _circuits_as_new() -> Iterator[None]:
    """They belong to the process: an outage that one test was about is none of the next one's business."""
    yield
    for breaker in CIRCUIT_BREAKERS.values():
        breaker.reset()
    for family in KEYED_CIRCUIT_BREAKERS:
        for breaker in family.breakers():
            breaker.reset()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--patience", type=float, default=PATIENCE, help="factor of the limits that tests take `within`")


def pytest_collection_finish() -> None:
    """What is imported and collected by now stays: the garbage collector need not look at its million objects again."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture
def within(request: pytest.FixtureRequest) -> Within:
    """Of limits on time: `assert seconds < within(0.3)`. `make chaos` plays these tests again, without patience."""
    return Within(request.config.getoption("--patience"))


@pytest.fixture(autouse=True, scope="module")
def _http_clients_as_new() -> Iterator[None]:
    """A replica that a module builds in this process gives the process' clients room and a way out by its settings."""
    room, egress = http_client._room, http_client._egress
    yield
    http_client._room, http_client._egress = room, egress


@pytest.fixture
def cache_timings(request: pytest.FixtureRequest) -> CacheTimings:
    """Of the test's caches: the product's, except that they wait for an answer of Redis for as long as a busy machine
    may take, and what `@pytest.mark.cache_timings(lease=0.5)` says. A test about how long a call waits asks for
    `call=TIMINGS.call`: a busy machine gives some answers too late for that. Then a read rightly goes to the source,
    and an invalidation is repeated."""
    marker = request.node.get_closest_marker("cache_timings")
    return CacheTimings(**{"call": 5.0, **(marker.kwargs if marker else {})})


@pytest.fixture(scope="session")
def server_location() -> Iterator[Location]:
    folder = server_folder("chorus-tests-")
    try:
        located = locate(folder)
        # The suites of the scripts on another server: CHORUS_TEST_REDIS_SERVER=/path/to/redis-server pytest tests/…
        other = os.environ.get("CHORUS_TEST_REDIS_SERVER")
        yield replace(located, valkey_server=Path(other)) if other else located
    finally:
        remove_data(folder)


class _WritingValkey(Valkey):
    """Its end, also by SIGKILL, loses nothing that it has acknowledged: it writes before it answers. With `everysec` it
    holds back what it writes for up to two seconds while the disk is busy with the sync before (redis.conf)."""

    config = CONFIG.replace("appendfsync everysec", "appendfsync no")


@pytest.fixture(scope="session")
def valkey(server_location: Location) -> Iterator[Valkey]:
    """The session's server, for tests that break it. It comes back for the next test that asks for `valkey_url`."""
    server = _WritingValkey(server_location)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def valkey_url(valkey: Valkey) -> str:
    """An empty Valkey."""
    valkey.start()
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
        client.script_flush()
    return valkey.url


@pytest.fixture(scope="session")
def postgres(server_location: Location) -> Iterator[Postgres]:
    """The session's server, for tests that break it. It comes back for the next test that asks for `postgres_url`."""
    server = Postgres(server_location, durable=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """An empty database of the test's own."""
    yield from _database(postgres, template="template1")


@pytest.fixture(scope="session")
def migrated_template(postgres: Postgres) -> str:
    postgres.start()
    name = "migrated"
    postgres.execute(f"CREATE DATABASE {name}")
    # In a thread, so that no event loop of a test is in the way.
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, apply_migrations(postgres.url_of(name))).result()
    return name


@pytest.fixture
def store_url(postgres: Postgres, migrated_template: str) -> Iterator[str]:
    """A database of the test's own with every migration applied and no rows."""
    yield from _database(postgres, template=migrated_template)


_used_databases: list[str] = []


def _database(postgres: Postgres, *, template: str) -> Iterator[str]:
    """700 tests ask for one: those that are no longer used go with the connection that makes the next. They are copied
    as files: by way of the log, as is usual, it costs twice the CPU."""
    postgres.start()
    name = f"test_{secrets.token_hex(6)}"
    dropped = [f"DROP DATABASE IF EXISTS {used} WITH (FORCE)" for used in _used_databases]
    postgres.execute(*dropped, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    _used_databases.clear()
    yield postgres.url_of(name)
    _used_databases.append(name)
