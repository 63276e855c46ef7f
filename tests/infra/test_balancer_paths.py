"""What the shipped balancer lets through, whatever the spelling: the real HAProxy before a plain server."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from fastapi.routing import APIRoute

from app.api import routes_accounts, routes_bot, routes_conversations
from tests.support.balancer import Balancer, balancer, needs_haproxy

from .test_tls_front import CADDY, caddy

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


ADMIN = ["/admin", "/admin/fleet", "/admin/breakers/gemini", "/%61dmin/queue"]
"""Through the operators' entrance these reach a replica, which asks for the key."""
FOR_OPERATORS = [
    *ADMIN, "/console", "/console/app.js", "/session", "/events?account_id=1", "/accounts", "/bot/profile?account_id=1",
    "/conversations/counts", "/contacts/1", "/messages/1/media", "/invitations/accept", "/health",
]  # fmt: skip
NOT_FOR_OPERATORS = ["/webhook/whatsapp", *(path for path in HIDDEN if not path.startswith("/admin"))]
KEY = "Bearer the-key"


class Shows(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        is_refused = unquote(self.path).startswith("/admin") and self.headers["Authorization"] != KEY
        self.send_response(401 if is_refused else 200)
        self.send_header("X-Seen-For", self.headers["X-Forwarded-For"] or "")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def fronts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shows)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    folder: Path = tmp_path_factory.mktemp("balancer")
    try:
        with balancer([server.server_port], folder) as fronts:
            yield fronts
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def front(fronts: Balancer) -> int:
    return int(fronts.url.rpartition(":")[2])


@pytest.fixture(scope="module")
def operators(fronts: Balancer) -> int:
    return int(fronts.operators_url.rpartition(":")[2])


def whole_answer(port: int, path: str, *headers: str) -> str:
    """Written by hand: a client would put the path in order before it sends it."""
    head = "\r\n".join([f"GET {path} HTTP/1.1", "Host: chorus", "Connection: close", *headers, "", ""])
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(head.encode())
        return connection.makefile("rb").read().decode()


def status_of(port: int, path: str, *headers: str) -> int:
    return int(whole_answer(port, path, *headers).split()[1])


@needs_haproxy
@pytest.mark.parametrize("path", PUBLIC)
def test_a_public_path_reaches_a_replica(front: int, path: str) -> None:
    assert status_of(front, path) == 200


@needs_haproxy
@pytest.mark.parametrize("path", HIDDEN)
def test_no_other_path_does_in_any_spelling(front: int, path: str) -> None:
    assert status_of(front, path) in {400, 404}


@needs_haproxy
@pytest.mark.parametrize("path", ADMIN)
def test_what_operators_reach_is_closed_in_public_with_the_key_too(front: int, path: str) -> None:
    assert status_of(front, path, f"Authorization: {KEY}") == 404


@needs_haproxy
@pytest.mark.parametrize("path", FOR_OPERATORS)
def test_the_operators_entrance_is_open_with_the_key(operators: int, path: str) -> None:
    assert status_of(operators, path, f"Authorization: {KEY}") == 200
    assert status_of(operators, path) == (401 if path in ADMIN else 200)


@needs_haproxy
@pytest.mark.parametrize("path", NOT_FOR_OPERATORS)
def test_the_operators_entrance_offers_nothing_else_in_any_spelling(operators: int, path: str) -> None:
    assert status_of(operators, path, f"Authorization: {KEY}") in {400, 404}


@needs_haproxy
def test_an_address_that_a_client_claims_at_the_operators_entrance_is_dropped(operators: int) -> None:
    seen = whole_answer(operators, "/health", "X-Forwarded-For: 203.0.113.7")
    assert "x-seen-for: 127.0.0.1\r\n" in seen.lower()


def answer_to(port: int, head: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"{head}\r\nConnection: close\r\n\r\n".encode())
        return connection.makefile("rb").readline()


@needs_haproxy
@pytest.mark.parametrize(
    "head",
    [
        "GET http://chorus/metrics HTTP/1.1", "GET http://chorus/%6Detrics HTTP/1.1", "GET http://chorus HTTP/1.1",
        "GET HTTP://chorus//metrics HTTP/1.1", "GET http://health/metrics HTTP/1.1", "GET /metrics HTTP/1.0",
        "OPTIONS * HTTP/1.1",
        "CONNECT chorus:80 HTTP/1.1", "GET metrics HTTP/1.1", "GET /metrics?/health HTTP/1.1",
        "GET /metrics#/health HTTP/1.1", "GET /%2Fmetrics HTTP/1.1", "GET /health%2F..%2Fmetrics HTTP/1.1",
        "GET /accounts/%C0%AE%C0%AE/metrics HTTP/1.1", "GET /accounts/%2E%2E/%4D%45TRICS HTTP/1.1",
        "GET /metrics HTTP/1.1\r\nX-Original-URL: /health\r\nX-Rewrite-URL: /health",
        "POST /metrics HTTP/1.1\r\nX-HTTP-Method-Override: GET\r\nContent-Length: 0",
    ],
)  # fmt: skip
@pytest.mark.parametrize("host", ["chorus", "x/health"])
def test_no_other_form_of_a_request_reaches_what_is_hidden(front: int, head: str, host: str) -> None:
    assert int(answer_to(front, f"{head}\r\nHost: {host}").split()[1]) in {400, 403, 404, 405, 501}


@needs_haproxy
def test_the_absolute_form_of_a_public_path_is_public(front: int) -> None:
    assert answer_to(front, "GET http://chorus/health HTTP/1.1\r\nHost: chorus").split()[1] == b"200"


def over_http2(url: str, *more: str) -> int:
    """A path is sent as it is, percent signs and dots included."""
    command = [
        "curl",
        "-s",
        "-k",
        "-o",
        "/dev/null",
        "-w",
        "%{http_version} %{http_code}",
        "--path-as-is",
        "-m",
        "5",
        *more,
        url,
    ]
    version, status = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.split()
    assert version == "2" or status == "000", url
    return int(status)


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
ODD = {"/\u212aadmin", "/accounts/..\\metrics"}
"""curl does not send them."""


@needs_haproxy
@needs_curl
def test_http_2_is_held_against_the_same_list(front: int) -> None:
    base = f"http://127.0.0.1:{front}"
    assert over_http2(f"{base}/health", "--http2-prior-knowledge") == 200
    for path in set(HIDDEN) - ODD:
        assert over_http2(base + path, "--http2-prior-knowledge") in {400, 404}, path


@needs_haproxy
@needs_curl
@pytest.mark.skipif(CADDY is None, reason="no caddy on this machine (Debian: apt install caddy)")
def test_http_2_to_caddy_is_held_against_the_same_list(front: int, tmp_path: Path) -> None:
    with caddy(tmp_path, front) as (port, process):
        base = f"https://localhost:{port}"
        deadline = time.monotonic() + 30
        while over_http2(f"{base}/health", "--http2") != 200:
            assert process.running, process.log_tail()
            assert time.monotonic() < deadline, process.log_tail()
            time.sleep(0.05)
        for path in set(HIDDEN) - ODD:
            assert over_http2(base + path, "--http2") in {308, 400, 404}, path


@needs_haproxy
async def test_every_route_of_the_businesses_is_public(front: int) -> None:
    for module in (routes_accounts, routes_bot, routes_conversations):
        for route in module.router.routes:
            assert isinstance(route, APIRoute)
            path = route.path.replace("{", "").replace("}", "")
            assert await asyncio.to_thread(status_of, front, path) == 200, path
