"""uvicorn, taught to drain: not ready -> keep serving -> stop accepting -> finish -> exit 0."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import socket
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from types import FrameType

import uvicorn

from app import __version__
from app.api.http_protocol import BoundedServer, ConnectionLimits, bounded
from app.core.errors import SettingsError
from app.core.tracing import configure_tracing
from app.main import Chorus, create_app
from app.replica import Replica
from app.settings import Settings

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 75
"""Longer than the usual load balancer's 60 s, so that it is never we who close a connection it is about to use."""
GC_ALLOCATIONS = 20_000
NOTICED_SECONDS = 1.0
"""The balancer's checks (infra/haproxy/haproxy.cfg) have found out by then that this replica drains."""
OTHER_FILES = 400
"""Descriptors beside those of clients: Redis, Postgres, upstreams, logs."""
CLOSE = (b"connection", b"close")


class DrainingServer(BoundedServer):
    """uvicorn closes its sockets at once on SIGTERM, so a load balancer never sees the 503 on the readiness route.
    Here the first signal only turns readiness off; the sockets stay open for `drain_seconds`, and every answer asks
    its client to come back on another connection. A second signal ends the process at once: what it held is taken over
    when the leases end.
    """

    def __init__(self, config: uvicorn.Config, app: Chorus, *, drain_seconds: float) -> None:
        super().__init__(config)
        self._app = app
        self._drain_seconds = drain_seconds
        self._signalled = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What lives by now lives as long as the process: the garbage collector need not look at it for every webhook.
        # Nor after every 700 allocations: that is three times for the webhooks of one turn of the loop.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_ALLOCATIONS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not calling super(): it would re-raise the signal after the shutdown, and the exit code would not be 0.
        if self._signalled:
            logger.warning("second signal, ending now", extra={"signal": sig})
            os._exit(128 + sig)
        self._signalled = True
        replica: Replica | None = getattr(self._app.state, "replica", None)
        if replica is None:  # still starting, or done already
            self.should_exit = True
            return
        logger.info("draining", extra={"signal": sig, "seconds": self._drain_seconds})
        replica.services.health.draining()
        for worker in (replica.worker, replica.event_worker):
            if worker is not None:
                worker.loop.stop_claiming()
        # When the balancer has noticed, streams are sent away; they come back to another replica.
        loop = asyncio.get_running_loop()
        leave = partial(
            loop.call_later, min(NOTICED_SECONDS, self._drain_seconds / 2), self._send_streams_away, replica
        )
        loop.call_soon_threadsafe(leave)
        # The list that uvicorn puts before every answer's headers; it is renewed from the configuration each second.
        self.config.encoded_headers.append(CLOSE)
        self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]
        # From a signal handler only the thread-safe call wakes the loop.
        loop.call_soon_threadsafe(loop.call_later, self._drain_seconds, self._stop)

    def _send_streams_away(self, replica: Replica) -> None:
        replica.services.live.drain(self._drain_seconds / 4)

    def _stop(self) -> None:
        self.should_exit = True


def _connections(wanted: int) -> int:
    """At most `wanted`: as many as the limit on descriptors leaves, which is raised as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OTHER_FILES
    if resource.RLIM_INFINITY not in {soft, hard} and soft < needed:
        soft = min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    logger.warning("few file descriptors: fewer connections", extra={"descriptors": soft, "wanted": needed})
    return max(soft - OTHER_FILES, soft // 2)


def refuse_foreign_host(host: str) -> None:
    """Before anything is connected. A port that is taken is told later, by the one try that counts. Raises
    `SettingsError` if no address of `host` is one of this machine's."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        raise SettingsError({"HOST": f"is {host}, an unknown name; to listen everywhere: 0.0.0.0"}) from None
    for family, kind, protocol, _, address in found:
        # asyncio passes over the addresses of a family that is switched off, as ::1 of localhost may be.
        with suppress(OSError), socket.socket(family, kind, protocol) as tried:
            tried.bind(address)
            return
    raise SettingsError({"HOST": f"is {host}, which is no address of this machine; to listen everywhere: 0.0.0.0"})


def serve(settings: Settings) -> None:
    """Run one replica until a signal ends it."""
    configure_tracing(version=__version__, instance=f"{socket.gethostname()}-{os.getpid()}")
    app = create_app(settings)
    limits = ConnectionLimits(
        connections=_connections(settings.max_connections),
        idle_seconds=KEEP_ALIVE_SECONDS,
    )
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="app.core.event_loop:ResolvingLoop" if find_spec("uvloop") else "auto",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=30,
        **bounded(limits),
    )
    DrainingServer(config, app, drain_seconds=settings.drain_seconds).run()
