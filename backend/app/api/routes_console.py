"""The web console's page and files. They hold nothing of any account and need no credentials."""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from app.api.errors import error_response
from app.api.plain_route import PlainRoute
from app.console import Asset, load

FOR_EVER = "public, max-age=31536000, immutable"
ASK_AGAIN = "no-cache"
_NO_GZIP = re.compile(r"(?:^|,)\s*gzip\s*;\s*q=0(?:\.0*)?\s*(?:,|$)")
_HEADERS = {
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Accept-Encoding",
}


async def page(request: Request) -> Response:
    console = load()
    headers = {
        "Content-Security-Policy": console.policy,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        "Cache-Control": ASK_AGAIN,
    }
    return _sent(request, console.page, headers)


async def static(request: Request) -> Response:
    console = load()
    asset = console.files.get(request.path_params["path"])
    if asset is None:
        return error_response(404, "not_found", "the console has no such file")
    # During a rolling upgrade the page may come from one version and a file from another: it must not stay.
    is_ours = request.path_params["version"] == console.version
    return _sent(request, asset, {"Cache-Control": FOR_EVER if is_ours else ASK_AGAIN})


def _sent(request: Request, asset: Asset, headers: Mapping[str, str]) -> Response:
    headers = {**_HEADERS, **headers, "ETag": asset.etag}
    if _has_it(request, asset.etag):
        return Response(status_code=304, headers=headers)
    if _takes_gzip(request):
        return Response(asset.gzipped, headers=headers | {"Content-Encoding": "gzip"}, media_type=asset.media_type)
    return Response(asset.body, headers=headers, media_type=asset.media_type)


def _has_it(request: Request, etag: str) -> bool:
    """A balancer that compresses makes the tag weak; the content is the same."""
    asked = request.headers.get("if-none-match", "")
    return asked == "*" or etag in (tag.strip().removeprefix("W/") for tag in asked.split(","))


def _takes_gzip(request: Request) -> bool:
    accepted = request.headers.get("accept-encoding", "").lower()
    return "gzip" in accepted and _NO_GZIP.search(accepted) is None


ROUTES = [
    PlainRoute("/console", page),
    PlainRoute("/console/", page),
    PlainRoute("/console/static/{version}/{path:path}", static),
]
