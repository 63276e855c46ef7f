"""Serving what the replica's ingest is held against, with the replica's own settings of uvicorn."""

from __future__ import annotations

import hmac
import sys
import threading
import time

import uvicorn
from starlette.types import ASGIApp

from app.localhost.processes import free_port
from tests.bench.child import say

START_SECONDS = 10.0


def is_signed(key: bytes, body: bytes, given: bytes) -> bool:
    return hmac.compare_digest(b"sha256=" + hmac.digest(key, body, "sha256").hex().encode(), given)


def serve(app: ASGIApp, *, keep_alive_seconds: int) -> None:
    """Tell the parent the port; serve until it closes the pipe."""
    config = uvicorn.Config(
        app,
        port=free_port(),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=keep_alive_seconds,
    )
    server = uvicorn.Server(config)

    def follow_parent() -> None:
        deadline = time.monotonic() + START_SECONDS
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        say({"port": config.port})
        sys.stdin.read()
        server.should_exit = True

    threading.Thread(target=follow_parent, daemon=True).start()
    server.run()
