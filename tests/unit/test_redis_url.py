"""REDIS_URL in all its forms."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from redis.asyncio.connection import SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from app.core.redis import url as redis_url
from app.core.redis.client import connect
from app.core.redis.url import _OPTIONS, RedisUrl, Topology


@pytest.mark.parametrize(
    ("url", "topology", "hosts", "plain", "service"),
    [
        ("redis://h", "single", (("h", 6379),), "redis://h:6379/", ""),
        ("rediss://u:p%40@h:1/2?ssl_ca_certs=/a", "single", (("h", 1),), "rediss://u:p%40@h:1/2?ssl_ca_certs=/a", ""),
        ("redis://[::1]:7/0", "single", (("::1", 7),), "redis://[::1]:7/0", ""),
        ("redis+sentinel://:p@a,b:2/main/3", "sentinel", (("a", 26379), ("b", 2)), "redis://:p@a:26379/3", "main"),
        (
            "rediss+cluster://u:p@a:1,b:2/0?protocol=2",
            "cluster",
            (("a", 1), ("b", 2)),
            "rediss://u:p@a:1/0?protocol=2",
            "",
        ),
    ],
)
def test_a_url_is_taken_apart(
    url: str, topology: str, hosts: tuple[tuple[str, int], ...], plain: str, service: str
) -> None:
    assert RedisUrl.parse(url) == RedisUrl(Topology(topology), hosts, plain, service)


@pytest.mark.parametrize("url", ["unix:///tmp/s", "unix://u:p@/tmp/a@b?db=1"])
def test_a_socket_stays_as_it_is(url: str) -> None:
    assert RedisUrl.parse(url).plain == url


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
        ("redis://redis..internal:6379", "has a host that no name server can know"),
        ("redis://:secret@h:0", "has a port that is none"),
        ("redis://:secret@h/abc", "no number of a database"),
        ("redis://:secret@h/0/1", "no number of a database"),
        ("redis://:secret@h/-1", "no number of a database"),
        ("rediss://:secret@h/1.0", "no number of a database"),
        ("redis+sentinel://a/main/abc", "no number of a database"),
        ("redis+sentinel://a/main/0/1", "no number of a database"),
        ("unix://relative.sock", "no socket by its whole path"),
        ("unix://:secret@relative.sock", "no socket by its whole path"),
        ("unix://h/run/redis.sock", "no socket by its whole path"),
        ("unix://:secret@/", "no socket by its whole path"),
        ("unix://:sec/ret@/run/redis.sock", "%2F"),
    ],
)
def test_what_is_wrong_is_said_without_the_secret(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        RedisUrl.parse(url)
    assert "secret" not in str(caught.value)


BASES = (
    "redis://h/0", "rediss://h/0", "unix:///tmp/s", "redis+sentinel://h/main", "rediss+sentinel://h/main",
    "redis+cluster://h", "rediss+cluster://h",
)  # fmt: skip
GOOD = {
    "db": "0", "protocol": "2", "ssl_min_version": "771", "ssl_cert_reqs": "none", "max_connections": "7",
    "ssl_include_verify_flags": "VERIFY_X509_STRICT", "ssl_exclude_verify_flags": "[VERIFY_X509_STRICT,VERIFY_DEFAULT]",
    "socket_read_size": "4096", "socket_timeout": "0.5", "socket_connect_timeout": "2", "health_check_interval": "0",
}  # fmt: skip


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", [*sorted(_OPTIONS), "nonsense"])
async def test_an_option_is_refused_if_and_only_if_redis_py_does_not_take_it_there(base: str, name: str) -> None:
    url = f"{base}?{name}={GOOD.get(name, 'x')}"
    ignored = base.startswith("redis+cluster") and name.startswith("ssl_")
    problem = problem_of(url)
    assert (problem is None) == (await connections_can_be_made(url) and not ignored), problem


def problem_of(url: str) -> str | None:
    try:
        RedisUrl.parse(url)
    except ValueError as exc:
        return str(exc)
    return None


async def connections_can_be_made(url: str) -> bool:
    """What redis-py says, whatever we say."""
    client: Any = None
    try:
        with patch.object(redis_url, "_option_problem", return_value=None):
            client = connect(url)
        if "+cluster:" in url:
            for node in client.nodes_manager.startup_nodes.values():
                node.connection_class(**node.connection_kwargs)
            return True
        pools = [client.connection_pool]
        if "+sentinel:" in url:
            pools += [each.connection_pool for each in client.connection_pool.sentinel_manager.sentinels]
        for pool in pools:
            pool.make_connection()
    except (TypeError, ValueError, RedisError):
        return False
    else:
        return True
    finally:
        if client is not None:
            await client.aclose()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis://h?protocol=9", "takes 2 or 3 as protocol"),
        ("redis://h?db=-1", "takes a whole number as db"),
        ("redis://h?db=1.5", "takes a whole number as db"),
        ("redis://h?socket_timeout=1.2.3", "takes a number above 0 as socket_timeout"),
        ("redis://h?socket_timeout=inf", "takes a number above 0 as socket_timeout"),
        ("rediss://h?ssl_min_version=9", "as ssl_min_version"),
        ("rediss://h?ssl_cert_reqs=maybe", "takes none, optional or required as ssl_cert_reqs"),
        ("rediss://h?ssl_include_verify_flags=NONSENSE", "takes names of ssl.VerifyFlags"),
        ("redis://h?max_connections=0", "above 0 as max_connections"),
        ("redis://h?socket_timeout=0.0", "above 0 as socket_timeout"),
        ("redis://h?socket_read_size=0", "above 0 as socket_read_size"),
        ("redis://h/3?db=5", "another one as db"),
        ("redis://h/3?db=3", None),
        ("redis://h/?db=3", None),
        ("unix:///tmp/5?db=3", None),
        ("redis+cluster://h/0?db=0", None),
        ("redis+cluster://h?db=3", "a cluster has only database 0"),
    ],
)
def test_a_value_that_cannot_work_is_refused_in_words(url: str, problem: str | None) -> None:
    found = problem_of(url)
    assert found is None if problem is None else problem in (found or "")


async def test_tls_and_its_authority_reach_every_connection() -> None:
    cluster: Any = connect("rediss+cluster://u:p@h:1?ssl_ca_certs=/ca")
    (node,) = cluster.nodes_manager.startup_nodes.values()
    assert (node.connection_class, node.connection_kwargs["ssl_ca_certs"]) == (SSLConnection, "/ca")
    assert (node.connection_kwargs["username"], node.connection_kwargs["password"]) == ("u", "p")
    guarded: Any = connect("rediss+sentinel://u:p@h:1/main/2?ssl_ca_certs=/ca&sentinel_password=s")
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
    client = connect("redis+sentinel://:secret@127.0.0.1:1,127.0.0.1:2/main")
    with pytest.raises(RedisConnectionError) as caught:
        await client.ping()
    words = str(caught.value)
    assert words.startswith("no sentinel names a primary of 'main': 127.0.0.1:1: ")
    assert "; 127.0.0.1:2: " in words
    assert len(words) < 300
    await client.aclose()
