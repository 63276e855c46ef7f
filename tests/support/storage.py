"""A stand-in for Supabase Storage: private buckets in memory, with the routes and the answers that storage3 meets."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.parser import BytesParser
from email.policy import HTTP

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.serving import served

KEY = "sb_secret_storage"


class StorageStandIn:
    """`buckets`: name -> (is public, files); `fail_next`: so many requests from now on are answered with 503."""

    def __init__(self) -> None:
        self.buckets: dict[str, tuple[bool, dict[str, bytes]]] = {}
        self.fail_next = 0

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/storage/v1/bucket", self.make_bucket, methods=["POST"]),
                Route("/storage/v1/object/info/{bucket}/{name}", self.info),
                Route("/storage/v1/object/{bucket}/{name}", self.upload, methods=["POST"]),
                Route("/storage/v1/object/{bucket}/{name}", self.download, methods=["GET"]),
                Route("/storage/v1/object/{bucket}", self.remove, methods=["DELETE"]),
            ]
        )

    async def make_bucket(self, request: Request) -> Response:
        told = orjson.loads(await request.body())
        if refused := self._refused(request):
            return refused
        if told["id"] in self.buckets:
            return _error(409, "Duplicate", "The resource already exists")
        self.buckets[told["id"]] = (told.get("public", False), {})
        return _json({"name": told["id"]})

    async def upload(self, request: Request) -> Response:
        body = await request.body()
        if refused := self._refused(request):
            return refused
        files = self._files(request)
        if files is None:
            return _error(404, "Bucket not found", "Bucket not found")
        name = request.path_params["name"]
        if name in files and request.headers.get("x-upsert") != "true":
            return _error(409, "Duplicate", "The resource already exists")
        head = f"content-type: {request.headers['content-type']}\r\n\r\n".encode()
        form = BytesParser(policy=HTTP).parsebytes(head + body)
        (file,) = [part for part in form.iter_parts() if part.get_filename()]
        content = file.get_payload(decode=True)
        assert isinstance(content, bytes)
        files[name] = content
        return _json({"Key": f"{request.path_params['bucket']}/{name}", "Id": name})

    async def info(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        content = (self._files(request) or {}).get(request.path_params["name"])
        if content is None:
            return _error(404, "not_found", "Object not found")
        return _json({"name": request.path_params["name"], "size": len(content)})

    async def download(self, request: Request) -> Response:
        if refused := self._refused(request):
            return refused
        content = (self._files(request) or {}).get(request.path_params["name"])
        if content is None:
            return _error(404, "not_found", "Object not found")
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
        if asked is None:
            return Response(content)
        return Response(content[int(asked[1]) : int(asked[2]) + 1], 206)

    async def remove(self, request: Request) -> Response:
        body = await request.body()
        if refused := self._refused(request):
            return refused
        files = self._files(request) or {}
        return _json([{"name": name} for name in orjson.loads(body)["prefixes"] if files.pop(name, None) is not None])

    def _files(self, request: Request) -> dict[str, bytes] | None:
        found = self.buckets.get(request.path_params["bucket"])
        return found[1] if found else None

    def _refused(self, request: Request) -> Response | None:
        if self.fail_next:
            self.fail_next -= 1
            return _error(503, "Unavailable", "try later")
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return _error(403, "Unauthorized", "new row violates row-level security policy")
        return None


def _error(status: int, error: str, message: str) -> Response:
    # As Storage does it: HTTP 400 around the status that it means, but for its own trouble.
    told = {"statusCode": str(status), "error": error, "message": message}
    return Response(orjson.dumps(told), status if status >= 500 else 400, media_type="application/json")


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")


@asynccontextmanager
async def storage_stand_in() -> AsyncIterator[tuple[str, StorageStandIn]]:
    stand_in = StorageStandIn()
    async with served(stand_in.app()) as url:
        yield url, stand_in
