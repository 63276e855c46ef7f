"""REDIS_URL in all its forms, taken apart; nothing is connected here.

    redis://[user[:password]@]host[:6379][/db]         rediss:// with TLS
    unix://[user[:password]@]/path/to/socket
    redis+sentinel://[user[:password]@]host[:26379][,host…]/service[/db]     rediss+sentinel:// with TLS
    redis+cluster://[user[:password]@]host[:6379][,host…]                    rediss+cluster:// with TLS

Behind `?` comes what redis-py's connection takes (`ssl_ca_certs=/etc/ssl/ours.pem`, …). `sentinel_username` and
`sentinel_password` are the sentinels' own. User and password are percent-encoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

SENTINEL_PORT = 26379
REDIS_PORT = 6379
_TLS_SCHEMES = {"redis": False, "rediss": True}


class Topology(StrEnum):
    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """`plain` is the same connection as a URL that redis-py reads: credentials, TLS, options, one of the hosts."""

    topology: Topology
    hosts: tuple[tuple[str, int], ...]
    plain: str
    service: str = ""

    @classmethod
    def parse(cls, url: str) -> RedisUrl:
        """Raises `ValueError` saying what is wrong, without repeating the URL."""
        scheme, colon, rest = url.partition("://")
        base, _, kind = scheme.partition("+")
        if not colon or not rest or scheme == "":
            raise ValueError("is not a URL, such as redis://127.0.0.1:6379/0")
        if scheme == "unix":
            return cls(Topology.SINGLE, (), url)
        if base not in _TLS_SCHEMES or kind not in {"", Topology.SENTINEL, Topology.CLUSTER}:
            raise ValueError("must start with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://")
        topology = Topology(kind) if kind else Topology.SINGLE
        place, question, query = rest.partition("?")
        authority, _, path = place.partition("/")
        credentials, at, names = authority.rpartition("@")
        hosts = _hosts(names, SENTINEL_PORT if topology is Topology.SENTINEL else REDIS_PORT)
        if len(hosts) > 1 and topology is Topology.SINGLE:
            raise ValueError("names several hosts; that needs redis+sentinel:// or redis+cluster://")
        service = ""
        if topology is Topology.SENTINEL:
            service, _, path = path.partition("/")
            if not service:
                raise ValueError("names no service: redis+sentinel://host:26379/<service>")
        if topology is Topology.CLUSTER and path not in {"", "0"}:
            raise ValueError("names a database; a cluster has only database 0")
        host, port = hosts[0]
        plain = f"{base}://{credentials}{at}{_bracketed(host)}:{port}/{path}{question}{query}"
        return cls(topology, hosts, plain, service)


def _hosts(names: str, default_port: int) -> tuple[tuple[str, int], ...]:
    hosts = []
    for name in names.split(","):
        parts = urlsplit(f"//{name}")
        try:
            port = parts.port or default_port
        except ValueError:
            raise ValueError("has a port that is none") from None
        if not parts.hostname:
            raise ValueError("names no host")
        hosts.append((parts.hostname, port))
    return tuple(hosts)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
