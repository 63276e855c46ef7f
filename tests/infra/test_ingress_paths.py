"""What the Ingress of infra/k8s lets through, whatever the spelling: a real nginx with the locations that ingress-nginx
makes of its paths (`=` for Exact; `=` and the path with "/" behind it for Prefix; everything else is 404)."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from fastapi.routing import APIRoute

from app.api import routes_admin
from app.localhost.processes import ChildProcess, free_port

from .test_balancer_paths import HIDDEN, PUBLIC, answer_to, status_of
from .test_k8s import of_kind

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin")

pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx on this machine (Debian: apt install nginx-light)")


THROUGH_A_PUBLIC_PATH = [
    "/metrics/../accounts", "/metrics/../accounts/", "/admin/../accounts/x", "/admin/queue/../../accounts",
    "/admin/breakers/../../accounts", "/admin/queue/dead/../../../accounts/", "/metrics/%2e%2e/accounts",
    "/metrics//../../accounts", "/admin/%2e%2e/health", "/metrics/..%2faccounts",
]  # fmt: skip
ADMIN = [route for route in routes_admin.router.routes if isinstance(route, APIRoute)]
assert [route for route in ADMIN if route.path_regex.match("/admin/fleet")]
ARRIVED: list[str] = []


class Notes(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ARRIVED.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Quiet."""


def locations() -> list[str]:
    """The proxied locations of nginx' configuration, in the manifest's order."""
    (ingress,) = of_kind("Ingress")
    (rule,) = ingress["spec"]["rules"]
    found: list[str] = []
    for path in rule["http"]["paths"]:
        found.append(f"= {path['path']}")
        if path["pathType"] == "Prefix":
            found.append(f"{path['path']}/")
    return found


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Notes)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    folder, port = tmp_path_factory.mktemp("ingress"), free_port()
    # ingress-nginx passes the request on as it came: proxy_pass has no path.
    proxied = "\n".join(
        f"location {each} {{ proxy_pass http://127.0.0.1:{server.server_port}; }}" for each in locations()
    )
    temporary = "\n".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {folder}/own.pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {temporary}\nserver {{ listen 127.0.0.1:{port}; merge_slashes on;\n"
        f"location / {{ return 404; }}\n{proxied} }} }}\n"
    )
    argv: list[str | Path] = [NGINX or "", "-e", "stderr", "-p", folder, "-c", config]
    process = ChildProcess("nginx", argv, log_file=folder / "nginx.log", pid_file=folder / "nginx.pid")
    process.start()
    try:
        deadline = time.monotonic() + 10
        while True:
            assert process.running, process.log_tail()
            assert time.monotonic() < deadline, process.log_tail()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.02)
        yield port
    finally:
        process.kill()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("path", PUBLIC)
def test_a_public_path_reaches_a_replica(front: int, path: str) -> None:
    assert status_of(front, path) == 200


@pytest.mark.parametrize("path", [*HIDDEN, *THROUGH_A_PUBLIC_PATH])
def test_nothing_that_is_hidden_is_reached_in_any_spelling(front: int, path: str) -> None:
    """nginx passes the path on as it came: what it takes for a public path must be no hidden one to a replica."""
    ARRIVED.clear()
    if status_of(front, path) in {400, 404}:
        assert not ARRIVED
    else:
        (arrived,) = ARRIVED
        taken_for = unquote(arrived.partition("?")[0])  # as uvicorn reads it
        assert taken_for != "/metrics"
        assert not [route.path for route in ADMIN if route.path_regex.match(taken_for)]


@pytest.mark.parametrize(
    "line", ["GET http://chorus/metrics HTTP/1.1", "GET http://chorus//%6Detrics HTTP/1.1", "GET metrics HTTP/1.1"]
)
def test_no_other_form_of_a_request_does(front: int, line: str) -> None:
    assert answer_to(front, f"{line}\r\nHost: chorus").split()[1] in {b"400", b"404"}
