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
from urllib.parse import parse_qsl, urlsplit

from app.core.credentials import credentials_problem

SENTINEL_PORT = 26379
REDIS_PORT = 6379
_TLS_SCHEMES = {"redis": False, "rediss": True}


_NUMBERS = frozenset({
    "db", "health_check_interval", "max_connections", "protocol", "socket_connect_timeout", "socket_read_size",
    "socket_timeout", "ssl_min_version",
})  # fmt: skip
_WORDS = frozenset({
    "client_name", "legacy_responses", "password", "retry_on_timeout", "sentinel_password", "sentinel_username",
    "socket_keepalive", "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile",
    "ssl_check_hostname", "ssl_ciphers", "ssl_exclude_verify_flags", "ssl_include_verify_flags", "ssl_keyfile",
    "ssl_password", "username",
})  # fmt: skip
"""What may stand behind `?` (redis-py 8.1, `URL_QUERY_ARGUMENT_PARSERS` and the arguments of its connections)."""


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
        if problem := credentials_problem(url, tolerated="@%"):  # redis-py reads these two as they are
            raise ValueError(problem)
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


def option_problem(url: str) -> str | None:
    """What redis-py would trip over behind `?` when it connects; `None` if nothing."""
    query = url.partition("?")[2]
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _NUMBERS | _WORDS:
            return f"has an option that does not exist: {name[:40]}"
        if name in _NUMBERS and not value.replace(".", "", 1).isdecimal():
            return f"has no number as {name}"
        if name.startswith("ssl_") and not url.startswith("rediss"):
            return f"has {name}, which needs rediss://"
    return None


def _hosts(names: str, default_port: int) -> tuple[tuple[str, int], ...]:
    hosts = []
    for name in names.split(","):
        try:
            parts = urlsplit(f"//{name}")
        except ValueError:
            raise ValueError("has an IPv6 address without its brackets") from None
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
