"""How HTTP requests leave this machine: straight, or through a proxy, which certificates are believed, and which
addresses a URL of a stranger may lead to."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

_HOST = re.compile(r"\*|\*?\.?[A-Za-z0-9_-][A-Za-z0-9._-]*(:\d{1,5}|/\d{1,3})?|\[?[0-9A-Fa-f:]+\]?(/\d{1,3})?")


@dataclass(frozen=True, slots=True)
class Egress:
    """The default leaves straight and believes the public authorities alone.

    `no_proxy`: comma-separated hosts that are reached straight: a name (and all names below it), an address,
    `host:port`, or `*` for all. Networks such as `10.0.0.0/8` are passed over. `ca_file`: PEM certificates that are
    believed besides the public authorities. `strangers_may_be_private`: URLs that came from outside may lead into our
    own network, and need no TLS; for development.
    """

    https_proxy: str | None = None
    http_proxy: str | None = None
    no_proxy: str = ""
    ca_file: str | None = None
    strangers_may_be_private: bool = False

    def problems(self) -> dict[str, str]:
        """What cannot work, by the name of the setting."""
        problems = {}
        for name, url in (("HTTPS_PROXY", self.https_proxy), ("HTTP_PROXY", self.http_proxy)):
            if url and not _is_proxy_url(url):
                problems[name] = "must be http://[user:password@]host:port or https://…"
        if any(not _HOST.fullmatch(host) for host in self._hosts()):
            problems["NO_PROXY"] = "takes hosts, comma-separated: no URLs, no spaces inside"
        if self.ca_file:
            try:
                ssl.create_default_context(cafile=self.ca_file)
            except ssl.SSLError:
                problems["SSL_CERT_FILE"] = "names a file without a PEM certificate"
            except OSError as exc:
                problems["SSL_CERT_FILE"] = f"names a file that cannot be read: {exc.strerror}"
        return problems

    def straight_hosts(self) -> list[str]:
        return [host for host in self._hosts() if "/" not in host]

    def _hosts(self) -> list[str]:
        return [host for part in self.no_proxy.split(",") if (host := part.strip())]


def _is_proxy_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


_NOT_PUBLIC_V4 = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
    )
)  # fmt: skip
"""IANA's registry of special-purpose addresses, and multicast."""
_PUBLIC_V6 = ip_network("2000::/3")
_NOT_PUBLIC_V6 = tuple(map(ip_network, ("2001::/23", "2001:db8::/32", "3fff::/20")))
_NAT64 = ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """May a stranger's URL lead there? An IPv6 address that stands for an IPv4 one (mapped, 6to4, NAT64) is as public
    as that is; of the others only what is routed on the internet. `False` for what is no address."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address):
        inner = _inner(ip)
        if inner is None:
            is_special = ip.scope_id is not None or any(ip in network for network in _NOT_PUBLIC_V6)
            return ip in _PUBLIC_V6 and not is_special
        ip = inner
    return not any(ip in network for network in _NOT_PUBLIC_V4)


def _inner(ip: IPv6Address) -> IPv4Address | None:
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour


_NAME = re.compile(r"(?=.{1,254}$)([A-Za-z0-9_-]{1,63}\.)+[A-Za-z0-9_-]{1,63}\.?")
"""A name that DNS can hold (RFC 1035), of two labels at least: a single one is no public name."""
_NUMERIC = re.compile(r"(0[xX][0-9A-Fa-f]*|[0-9]+)\.?")
"""A host whose last part is a number is an address to a resolver: decimal, octal, hexadecimal (WHATWG URL)."""


def url_problem(url: str, *, may_be_private: bool = False) -> str | None:
    """Why a stranger's URL is not used, as far as it can be told without a look-up; `None` if it may be."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "is not a URL"
    if any(character <= " " or character > "~" or character == "\\" for character in url):
        return "has a character that a URL does not have"
    if parts.scheme != "https" and not (may_be_private and parts.scheme == "http"):
        return "must begin with https://"
    if not host or port == 0 or "%" in parts.netloc:
        return "has no host, or one that is none"
    if "@" in parts.netloc:
        return "has a user or a password in it"
    if parts.fragment:
        return "has a fragment (#…)"
    if may_be_private:
        return None
    if ":" in host or _is_dotted(host):
        return None if is_public(host) else "leads to an address that is not public"
    if _NUMERIC.fullmatch(host.rstrip(".").rpartition(".")[2]):
        return "has a number for a host"
    return None if _NAME.fullmatch(host) else "has a host that is no public name"


def _is_dotted(host: str) -> bool:
    try:
        return isinstance(ip_address(host), IPv4Address)
    except ValueError:
        return False
