"""The shipped Caddyfile: https in front of the balancer, with a certificate of Caddy's own making."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from app.localhost.processes import ChildProcess, free_port

CADDYFILE = Path(__file__).resolve().parents[2] / "infra" / "caddy" / "Caddyfile"
CADDY = shutil.which("caddy")

pytestmark = pytest.mark.skipif(CADDY is None, reason="no caddy on this machine (Debian: apt install caddy)")


class Echo(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        shown = json.dumps({"body": body.decode(), "proto": self.headers["X-Forwarded-Proto"]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(shown)))
        self.end_headers()
        self.wfile.write(shown)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Quiet."""


@contextmanager
def caddy(folder: Path, behind: int) -> Iterator[tuple[int, ChildProcess]]:
    port, plain = free_port(), free_port()
    config = folder / "Caddyfile"
    own = f"admin off\n\tlocal_certs\n\tskip_install_trust\n\thttp_port {plain}\n\thttps_port {port}"
    config.write_text(CADDYFILE.read_text(encoding="utf-8").replace("admin off", own), encoding="utf-8")
    env = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "XDG_DATA_HOME": str(folder / "data"),
        "XDG_CONFIG_HOME": str(folder), "PUBLIC_DOMAIN": "localhost", "BALANCER": f"127.0.0.1:{behind}",
    }  # fmt: skip
    argv = [CADDY or "", "run", "--adapter", "caddyfile", "--config", config]
    process = ChildProcess("caddy", argv, log_file=folder / "caddy.log", pid_file=folder / "caddy.pid", env=env)
    process.start()
    try:
        yield port, process
    finally:
        process.kill()


def post(port: int, context: ssl.SSLContext, body: bytes) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=5)
    try:
        connection.request("POST", "/webhook/whatsapp", body)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_a_delivery_over_https_reaches_the_balancer_byte_for_byte(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    authority = tmp_path / "data" / "caddy" / "pki" / "authorities" / "local" / "root.crt"
    body = b'{"text":"\\u00e9 \\/"}'
    try:
        with caddy(tmp_path, server.server_port) as (port, process):
            deadline = time.monotonic() + 30
            while True:
                assert process.running, process.log_tail()
                assert time.monotonic() < deadline, process.log_tail()
                try:
                    context = ssl.create_default_context(cafile=str(authority))
                    status, headers, answer = post(port, context, body)
                    break
                except OSError:  # not there yet: neither the authority nor the socket
                    time.sleep(0.05)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert status == 200
    assert json.loads(answer) == {"body": body.decode(), "proto": "https"}
    assert headers["Strict-Transport-Security"] == "max-age=31536000"
    assert "Server" not in headers or "Caddy" not in headers["Server"]
