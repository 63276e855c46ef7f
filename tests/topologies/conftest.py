"""`valkey_url` is a cluster of three primaries in this folder; `guarded` is a primary that Sentinel replaces."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.localhost.location import Location
from tests.support.redis_topologies import Cluster, Guarded, running_cluster, running_sentinels
from tests.support.serving import OutsideWorld, outside_world


@pytest.fixture(scope="package")
def cluster(server_location: Location, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(server_location.valkey_server, tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def valkey_url(cluster: Cluster) -> str:
    """An empty cluster, whole again after a test that broke it."""
    cluster.resume()
    cluster.start()
    cluster.empty()
    return cluster.url


@pytest.fixture
async def outside() -> Iterator[OutsideWorld]:
    async with outside_world() as world:
        yield world


@pytest.fixture
def program(server_location: Location) -> Path:
    return server_location.valkey_server


@pytest.fixture
def guarded(program: Path, tmp_path: Path) -> Iterator[Guarded]:
    with running_sentinels(program, tmp_path) as running:
        yield running
