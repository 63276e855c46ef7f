"""How HTTP requests leave this machine: straight, or through a proxy, and which certificates are believed."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

_HOST = re.compile(r"\*|\*?\.?[A-Za-z0-9_-][A-Za-z0-9._-]*(:\d{1,5}|/\d{1,3})?|\[?[0-9A-Fa-f:]+\]?(/\d{1,3})?")


@dataclass(frozen=True, slots=True)
class Egress:
    """The default leaves straight and believes the public authorities alone.

    `no_proxy`: comma-separated hosts that are reached straight: a name (and all names below it), an address,
    `host:port`, or `*` for all. Networks such as `10.0.0.0/8` are passed over. `ca_file`: PEM certificates that are
    believed besides the public authorities.
    """

    https_proxy: str | None = None
    http_proxy: str | None = None
    no_proxy: str = ""
    ca_file: str | None = None

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
