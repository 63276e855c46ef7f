"""The console's cookie: where it may come from, and who sent it.

`__Host-chorus_session` over https, `chorus_session` over plain http (development). It is HttpOnly and SameSite=Strict,
so another site's page cannot make a browser send it; on top of that a request that changes something must say that it
comes from our own pages (`refuse_cross_site`).
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from fastapi import Request, Response

from app.domain.errors import Forbidden

NAME = "chorus_session"
SECURE_NAME = f"__Host-{NAME}"
"""A browser takes a cookie of this name only with Secure, for this very host, and for every path."""
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
IPV6_PREFIX = 64
"""One line of a customer of an internet provider has as many addresses."""
MAX_ADDRESS_CHARACTERS = 64


def is_https(request: Request) -> bool:
    """As the browser sees it: TLS ends at the balancer, which says so. One who lies here gets a stricter cookie."""
    forwarded = request.headers.get("x-forwarded-proto", "")
    return request.url.scheme == "https" or forwarded.rpartition(",")[2].strip().lower() == "https"


def token_in(request: Request) -> str | None:
    return request.cookies.get(SECURE_NAME if is_https(request) else NAME)


def set_cookie(request: Request, response: Response, token: str, *, max_age_seconds: float) -> None:
    secure = is_https(request)
    response.set_cookie(
        SECURE_NAME if secure else NAME,
        token,
        max_age=round(max_age_seconds),
        path="/",
        secure=secure,
        httponly=True,
        samesite="strict",
    )


def clear_cookie(request: Request, response: Response) -> None:
    secure = is_https(request)
    response.delete_cookie(SECURE_NAME if secure else NAME, path="/", secure=secure, httponly=True, samesite="strict")


def refuse_cross_site(request: Request, *, only_browsers: bool = False) -> None:
    """Raises `Forbidden` unless a request that changes something comes from a page of this very origin. Every browser
    sends `Sec-Fetch-Site` or `Origin` with such requests, and no page can forge them. `only_browsers`: one without both
    is let through."""
    if request.method in SAFE_METHODS:
        return
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        is_ours = site == "same-origin"
    elif origin is not None:
        is_ours = _is_own_origin(request, origin)
    else:
        is_ours = only_browsers
    if not is_ours:
        raise Forbidden("a request with the session's cookie must come from a page of this origin")


def own_origin(request: Request) -> str | None:
    """`Origin`, if it is the host that the request names: for a link back to this console."""
    origin = request.headers.get("origin")
    return origin if origin is not None and _is_own_origin(request, origin) else None


def own_address(request: Request) -> str:
    """The address of this request without its path, as the browser sees it: for the one who asks, and no other."""
    return str(request.base_url.replace(scheme="https" if is_https(request) else "http")).rstrip("/")


def client_address(request: Request, *, proxies: int) -> str:
    """Of the one who asks; of IPv6 the network. `proxies`: how many balancers in front of us add to X-Forwarded-For.
    What stands before their entries was written by the client and is not believed."""
    peer = request.client.host if request.client else ""
    entries = [entry.strip() for entry in ",".join(request.headers.getlist("x-forwarded-for")).split(",")]
    address = (entries[-proxies] if len(entries) >= proxies else entries[0]) if proxies else peer
    try:
        found = ip_address(address or peer)
    except ValueError:
        return address[:MAX_ADDRESS_CHARACTERS]
    return str(found) if found.version == 4 else str(ip_network((found, IPV6_PREFIX), strict=False))


def _is_own_origin(request: Request, origin: str) -> bool:
    parts = urlsplit(origin)
    if is_https(request) and parts.scheme != "https":
        return False
    return parts.netloc.lower() == request.headers.get("host", "").lower() != ""
