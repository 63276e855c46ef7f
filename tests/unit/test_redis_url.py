"""REDIS_URL in all its forms."""

from __future__ import annotations

import pytest

from app.core.redis_url import RedisUrl, Topology


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
