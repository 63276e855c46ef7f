"""REDIS_URL in all its forms, taken apart; nothing is connected here.

    redis://[user[:password]@]host[:6379][/db]         rediss:// with TLS
    unix://[user[:password]@]/path/to/socket
    redis+sentinel://[user[:password]@]host[:26379][,host…]/service[/db]     rediss+sentinel:// with TLS
    redis+cluster://[user[:password]@]host[:6379][,host…]                    rediss+cluster:// with TLS

Behind `?` comes what redis-py's connection takes (`ssl_ca_certs=/etc/ssl/ours.pem`, …). `sentinel_username` and
`sentinel_password` are the sentinels' own; `socket_timeout` and `socket_connect_timeout` change nothing, because the
door bounds every call. User and password are percent-encoded.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import parse_qsl, urlsplit

from app.core.redaction import credentials_problem

SENTINEL_PORT = 26379
REDIS_PORT = 6379
_DATABASE = re.compile(r"(\d+/?)?", re.ASCII)
_SCHEMES = ("redis", "rediss")
_WHOLE = r"\d+", "a whole number"
_WHOLE_ABOVE_0 = r"0*[1-9]\d*", "a whole number above 0"
_ABOVE_0 = r"(?=.*[1-9])(?:\d+\.?\d*|\.\d+)", "a number above 0"
_FLAG = "|".join(ssl.VerifyFlags.__members__)
_FLAGS = rf"\[?\s*(?:{_FLAG})(?:\s*,\s*(?:{_FLAG}))*\s*\]?", "names of ssl.VerifyFlags"
_VALUES = {
    "db": _WHOLE, "health_check_interval": _WHOLE,
    "max_connections": _WHOLE_ABOVE_0, "socket_read_size": _WHOLE_ABOVE_0,
    "socket_connect_timeout": _ABOVE_0, "socket_timeout": _ABOVE_0,
    "protocol": ("[23]", "2 or 3"),
    "ssl_cert_reqs": ("none|optional|required", "none, optional or required"),
    "ssl_min_version": ("769|77[0-2]", "769 to 772 (TLS 1.0 to 1.3)"),
    "ssl_exclude_verify_flags": _FLAGS, "ssl_include_verify_flags": _FLAGS,
}  # fmt: skip
"""What redis-py would only trip over when it connects, or read nothing with: a pattern, and the same in words."""
_OPTIONS = _VALUES.keys() | {
    "client_name", "legacy_responses", "password", "retry_on_timeout", "sentinel_password", "sentinel_username",
    "socket_keepalive", "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_certfile", "ssl_check_hostname",
    "ssl_ciphers", "ssl_keyfile", "ssl_password", "username",
}  # fmt: skip
"""What may stand behind `?` (redis-py 8.1, `URL_QUERY_ARGUMENT_PARSERS` and the arguments of its connections)."""
_OF_SENTINEL = frozenset({"sentinel_password", "sentinel_username"})
_NOT_OF_CLUSTER = frozenset({"retry_on_timeout", "ssl_ca_path", "ssl_password"})
"""Arguments that redis-py's `RedisCluster` does not have."""


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
        if scheme != "unix" and (base not in _SCHEMES or kind not in {"", Topology.SENTINEL, Topology.CLUSTER}):
            raise ValueError("must start with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://")
        if problem := credentials_problem(url, tolerated="@%"):  # redis-py reads these two as they are
            raise ValueError(problem)
        where = _socket(url) if scheme == "unix" else _servers(base, Topology(kind or "single"), rest)
        if problem := _option_problem(url, where):
            raise ValueError(problem)
        return where


def _option_problem(url: str, where: RedisUrl) -> str | None:
    """What redis-py would trip over behind `?` when it connects; `None` if nothing."""
    database = "" if url.startswith("unix") else urlsplit(where.plain).path.strip("/")
    for name, value in parse_qsl(url.partition("?")[2], keep_blank_values=True):
        pattern, words = _VALUES.get(name, (".*", ""))
        if problem := _misplaced(name, url, where.topology):
            return problem
        if not re.fullmatch(pattern, value, re.ASCII | re.DOTALL):
            return f"takes {words} as {name}, nothing else"
        if name == "db" and where.topology is Topology.CLUSTER and value.strip("0"):
            return "names a database; a cluster has only database 0"
        if name == "db" and database not in {"", value}:
            return "names one database behind the last / and another one as db"
    return None


def _misplaced(name: str, url: str, topology: Topology) -> str | None:
    if name not in _OPTIONS:
        return f"has an option that does not exist: {name[:40]}"
    if name.startswith("ssl_") and not url.startswith("rediss"):
        return f"has {name}, which needs rediss://"
    if name in _OF_SENTINEL and topology is not Topology.SENTINEL:
        return f"has {name}, which needs redis+sentinel://"
    if name in _NOT_OF_CLUSTER and topology is Topology.CLUSTER:
        return f"has {name}, which a cluster's connections do not take"
    if name == "socket_keepalive" and url.startswith("unix"):
        return f"has {name}, which a socket of the file system does not take"
    return None


def _socket(url: str) -> RedisUrl:
    authority, _, path = url.partition("://")[2].partition("?")[0].partition("/")
    if authority.rpartition("@")[2] or not path:
        raise ValueError("names no socket by its whole path, as in unix:///run/redis.sock")
    return RedisUrl(Topology.SINGLE, (), url)


def _servers(base: str, topology: Topology, rest: str) -> RedisUrl:
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
    if not _DATABASE.fullmatch(path):  # redis-py would take database 0, or put the digits together
        raise ValueError("has no number of a database behind the last /, as in redis://127.0.0.1:6379/0")
    host, port = hosts[0]
    plain = f"{base}://{credentials}{at}{_bracketed(host)}:{port}/{path}{question}{query}"
    return RedisUrl(topology, hosts, plain, service)


def _hosts(names: str, default_port: int) -> tuple[tuple[str, int], ...]:
    hosts = []
    for name in names.split(","):
        try:
            parts = urlsplit(f"//{name}")
        except ValueError:
            raise ValueError("has an IPv6 address without its brackets") from None
        try:
            port = default_port if parts.port is None else parts.port
        except ValueError:
            port = 0
        if port == 0:
            raise ValueError("has a port that is none")
        if not parts.hostname:
            raise ValueError("names no host")
        try:
            parts.hostname.encode("idna")
        except UnicodeError:
            raise ValueError("has a host that no name server can know") from None
        hosts.append((parts.hostname, port))
    return tuple(hosts)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
