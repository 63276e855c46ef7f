"""What the shipped balancer lets through, whatever the spelling: the real HAProxy before a plain server."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from app.api import routes_accounts, routes_bot, routes_conversations
from balancer import balancer, needs_haproxy

PUBLIC = [
    "/webhook/whatsapp?hub.mode=subscribe", "/health", "/health/live", "/health/ready", "/accounts", "/accounts/",
    "/bot/profile?account_id=1", "/conversations/7b2e/messages", "/%61ccounts", "/console/app.js",
]  # fmt: skip
HIDDEN = [
    "/metrics", "/admin/fleet", "/%6detrics", "/%6D%65trics", "/%256detrics", "/admin%2ffleet", "/METRICS", "//metrics",
    "/./metrics", "/accounts/../metrics", "/accounts/..%2fmetrics", "/accounts/%2e%2e/metrics", "/accounts//../metrics",
    "/health/../admin/queue", "/accounts/..\\metrics", "/metrics/", "/metrics;x", "/accounts/%00/metrics", "/docs",
    "/openapi.json", "/", "/Admin/fleet", "/accounts/%0a/metrics", "/health/x", "/webhook/whatsapp/x", "/\u212aadmin",
]  # fmt: skip


class Shows(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shows)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    folder: Path = tmp_path_factory.mktemp("balancer")
    try:
        with balancer([server.server_port], folder) as front:
            yield int(front.url.rpartition(":")[2])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def status_of(port: int, path: str) -> int:
    """Written by hand: a client would put the path in order before it sends it."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: chorus\r\nConnection: close\r\n\r\n".encode())
        return int(connection.makefile("rb").readline().split()[1])


@needs_haproxy
@pytest.mark.parametrize("path", PUBLIC)
def test_a_public_path_reaches_a_replica(front: int, path: str) -> None:
    assert status_of(front, path) == 200


@needs_haproxy
@pytest.mark.parametrize("path", HIDDEN)
def test_no_other_path_does_in_any_spelling(front: int, path: str) -> None:
    assert status_of(front, path) in {400, 404}


@needs_haproxy
async def test_every_route_of_the_businesses_is_public(front: int) -> None:
    for module in (routes_accounts, routes_bot, routes_conversations):
        for route in module.router.routes:
            assert isinstance(route, APIRoute)
            path = route.path.replace("{", "").replace("}", "")
            assert await asyncio.to_thread(status_of, front, path) == 200, path
