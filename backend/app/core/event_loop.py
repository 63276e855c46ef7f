"""uvloop with our way to look names up (core/resolver.py), for every library that opens a connection on it: redis-py
and asyncpg (`create_connection`) as well as aiohttp (`getaddrinfo`). Only aiohttp has a hook of its own for that."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any

import uvloop

from app.core.resolver import Resolver


class ResolvingLoop(uvloop.Loop):
    def __init__(self, resolver: Resolver | None = None) -> None:
        super().__init__()
        self.resolver = resolver or Resolver()

    async def getaddrinfo(self, host: Any, port: Any, **hints: int) -> Any:
        if _is_address(host):
            return await super().getaddrinfo(host, port, **hints)
        return await self.resolver.addresses(host, port, **hints)

    async def create_connection(
        self, protocol_factory: Callable[[], object], host: Any = None, port: Any = None, **options: Any
    ) -> Any:
        """The addresses of `host` one after the other, as uvloop does; TLS still expects the name."""
        if _is_address(host):
            return await super().create_connection(protocol_factory, host, port, **options)
        hints = {name: options.pop(name, 0) for name in ("family", "proto", "flags")}
        found = await self.resolver.addresses(host, port, type=socket.SOCK_STREAM, **hints)
        if options.get("ssl") and options.get("server_hostname") is None:
            options["server_hostname"] = host
        failures: list[OSError] = []
        for family, _, proto, _, address in found:
            try:
                return await super().create_connection(
                    protocol_factory, _literal(address), address[1], family=family, proto=proto, **options
                )
            except ssl.SSLError:  # it was reached
                raise
            except OSError as exc:
                failures.append(exc)
        raise _one_of(failures, host)


def _is_address(host: object) -> bool:
    """An address, or no host at all: there is nothing to look up."""
    if not host:
        return True
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    if ":" in text:  # in no name, in every IPv6 address
        return True
    try:
        socket.inet_pton(socket.AF_INET, text)
    except OSError:
        return False
    return True


def _literal(address: tuple[object, ...]) -> str:
    """With the interface of a link-local IPv6 address."""
    scope = address[3] if len(address) > 3 else 0
    return f"{address[0]}%{scope}" if scope else str(address[0])


def _one_of(failures: list[OSError], host: object) -> OSError:
    if not failures:
        return OSError(f"getaddrinfo returned no address of {host}")
    if len(failures) == 1 or len({str(exc) for exc in failures}) == 1:
        return failures[0]
    return OSError("; ".join(str(exc) for exc in failures))
