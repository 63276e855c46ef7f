"""REDIS_URL in all its forms."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio.connection import SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from app.core.redis.client import connect
from app.core.redis.url import RedisUrl, Topology


@pytest.mark.parametrize(
    ("url", "topology", "hosts", "plain", "service"),
    [
        ("redis://h", "single", (("h", 6379),), "redis://h:6379/", ""),
        ("rediss://u:p%40@h:1/2?ssl_ca_certs=/a", "single", (("h", 1),), "rediss://u:p%40@h:1/2?ssl_ca_certs=/a", ""),
        ("redis://[::1]:7/0", "single", (("::1", 7),), "redis://[::1]:7/0", ""),
        ("redis+sentinel://:p@a,b:2/main/3", "sentinel", (("a", 26379), ("b", 2)), "redis://:p@a:26379/3", "main"),
        ("rediss+cluster://u:p@a:1,b:2/0?x=y", "cluster", (("a", 1), ("b", 2)), "rediss://u:p@a:1/0?x=y", ""),
    ],
)
def test_a_url_is_taken_apart(
    url: str, topology: str, hosts: tuple[tuple[str, int], ...], plain: str, service: str
) -> None:
    assert RedisUrl.parse(url) == RedisUrl(Topology(topology), hosts, plain, service)


def test_a_socket_stays_as_it_is() -> None:
    assert RedisUrl.parse("unix:///tmp/s").plain == "unix:///tmp/s"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nonsense", "is not a URL"),
        ("http://h", "must start with"),
        ("redis+magic://h", "must start with"),
        ("redis://a,b", "several hosts"),
        ("redis+sentinel://a", "no service"),
        ("redis+cluster://a/3", "only database 0"),
        ("redis://:secret@h:port", "has a port that is none"),
        ("redis://:secret@", "names no host"),
    ],
)
def test_what_is_wrong_is_said_without_the_secret(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        RedisUrl.parse(url)
    assert "secret" not in str(caught.value)


async def test_tls_and_its_authority_reach_every_connection() -> None:
    cluster: Any = connect("rediss+cluster://u:p@h:1?ssl_ca_certs=/ca", timeout_seconds=1)
    (node,) = cluster.nodes_manager.startup_nodes.values()
    assert (node.connection_class, node.connection_kwargs["ssl_ca_certs"]) == (SSLConnection, "/ca")
    assert (node.connection_kwargs["username"], node.connection_kwargs["password"]) == ("u", "p")
    guarded: Any = connect("rediss+sentinel://u:p@h:1/main/2?ssl_ca_certs=/ca&sentinel_password=s", timeout_seconds=1)
    pool = guarded.connection_pool
    assert issubclass(pool.connection_class, SSLConnection)
    assert (pool.connection_kwargs["ssl_ca_certs"], pool.connection_kwargs["db"]) == ("/ca", 2)
    (sentinel,) = pool.sentinel_manager.sentinels
    kwargs = sentinel.connection_pool.connection_kwargs
    assert issubclass(sentinel.connection_pool.connection_class, SSLConnection)
    assert (kwargs["password"], kwargs["ssl_ca_certs"]) == ("s", "/ca")
    await cluster.aclose()
    await guarded.aclose()


async def test_a_primary_that_no_sentinel_names_is_missed_in_few_words() -> None:
    client = connect("redis+sentinel://:secret@127.0.0.1:1,127.0.0.1:2/main", timeout_seconds=1)
    with pytest.raises(RedisConnectionError) as caught:
        await client.ping()
    words = str(caught.value)
    assert words.startswith("no sentinel names a primary of 'main': 127.0.0.1:1: ")
    assert "; 127.0.0.1:2: " in words
    assert len(words) < 300
    await client.aclose()
