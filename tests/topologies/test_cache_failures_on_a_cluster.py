"""The suite of chaos/test_cache_failures.py on three primaries: each replica reaches each of them through a proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import pytest

from app.core.cache import Cache, CacheTimings, join_fleet
from app.core.redis import corrections
from tests.chaos.test_cache_failures import *  # noqa: F403  the same tests again
from tests.support.cache_kit import CachedWorld, CacheReplica, until
from tests.support.proxy import Proxy, proxied
from tests.support.redis_topologies import PASSWORD, Cluster

Direct = corrections.ClusterClient


class Proxies:
    """One replica's, as one."""

    def __init__(self, proxies: list[Proxy]) -> None:
        self._proxies = proxies
        self.ports = [urlsplit(proxy.url).port or 0 for proxy in proxies]

    @property
    def url(self) -> str:
        return f"redis+cluster://:{PASSWORD}@" + ",".join(f"127.0.0.1:{port}" for port in self.ports)

    @property
    def refusing(self) -> bool:
        return all(proxy.refusing for proxy in self._proxies)

    @refusing.setter
    def refusing(self, value: bool) -> None:
        for proxy in self._proxies:
            proxy.refusing = value

    @property
    def delay_seconds(self) -> float:
        return self._proxies[0].delay_seconds

    @delay_seconds.setter
    def delay_seconds(self, value: float) -> None:
        for proxy in self._proxies:
            proxy.delay_seconds = value

    def freeze(self) -> None:
        for proxy in self._proxies:
            proxy.freeze()

    def thaw(self) -> None:
        for proxy in self._proxies:
            proxy.thaw()

    def strand(self) -> None:
        for proxy in self._proxies:
            proxy.strand()

    def cut(self) -> None:
        for proxy in self._proxies:
            proxy.cut()


def through(proxies: Proxies, cluster: Cluster) -> type[Direct]:
    """The cluster's client, except that it finds each node, whose port the cluster tells, behind its proxy."""
    ports = dict(zip([node.port for node in cluster.nodes], proxies.ports, strict=True))

    class Through(Direct):
        def __init__(self, **options: object) -> None:
            super().__init__(address_remap=lambda place: (place[0], ports.get(place[1], place[1])), **options)

    return Through


@pytest.fixture
async def replicas(
    cluster: Cluster, valkey_url: str, cache_timings: CacheTimings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[CacheReplica, CacheReplica]]:
    async with AsyncExitStack() as stack:
        world = CachedWorld()
        made = []
        for _ in range(2):
            opened = [
                await stack.enter_async_context(proxied(f"redis://:{PASSWORD}@127.0.0.1:{node.port}"))
                for node in cluster.nodes
            ]
            proxies = Proxies(opened)
            monkeypatch.setattr(corrections, "ClusterClient", through(proxies, cluster))
            cache = Cache(timings=cache_timings)
            shared = await stack.enter_async_context(join_fleet(cache, proxies.url, namespace="test"))
            made.append(CacheReplica(cache, shared, proxies, world))
        await until(lambda: all(replica.trusted for replica in made))
        yield made[0], made[1]


@pytest.fixture
def valkey(cluster: Cluster) -> Cluster:
    """What the suite kills and freezes."""
    return cluster
