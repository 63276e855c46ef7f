"""The sandbox: WhatsApp's Cloud API, Gemini and a control API on one port.

    chorus sandbox                                    # or, inside a test or the demo:
    async with running_sandbox(SandboxConfig()) as sandbox:
        sandbox.url, sandbox.state.record

For rehearsals only: it keeps everything in memory, and its control API asks for no credential.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from starlette.applications import Starlette

from app.core.errors import SettingsError
from app.core.http_client import GetClient, close_http_client, get_http_client
from app.sandbox.config import SandboxConfig
from app.sandbox.control import Control
from app.sandbox.gemini import Gemini
from app.sandbox.graph import Graph
from app.sandbox.serving import SandboxServer, listen
from app.sandbox.state import SandboxState
from app.sandbox.statuses import StatusFeed
from app.sandbox.whatsapp import WhatsApp


def create_sandbox(config: SandboxConfig, *, get_client: GetClient = get_http_client) -> Starlette:
    """`app.state.sandbox` is the `SandboxState`, `app.state.record` its record. Under another server than
    `SandboxServer` everything works but the faults that drop connections."""
    state = SandboxState(config)
    statuses = StatusFeed(state, get_client)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        statuses.start()
        try:
            yield
        finally:
            await statuses.stop()

    # WhatsApp's other routes come last: `/{version}/{media_id}` would swallow the control API's.
    graph = Graph(state)
    messages, *media = WhatsApp(state, statuses, graph).routes()
    app = Starlette(
        routes=[
            messages,
            *Gemini(state).routes(),
            *Control(state, statuses).routes(),
            *graph.routes(),
            *media,
        ],
        lifespan=lifespan,
    )
    app.state.sandbox = state
    app.state.record = state.record
    return app


@dataclass(frozen=True, slots=True)
class RunningSandbox:
    """`url` is the base URL for WhatsApp, Gemini and the control API alike."""

    url: str
    state: SandboxState


@contextlib.asynccontextmanager
async def running_sandbox(
    config: SandboxConfig | None = None, *, get_client: GetClient = get_http_client
) -> AsyncIterator[RunningSandbox]:
    """A sandbox in this event loop, on a real port, until the block ends. Leaves signals and logging alone."""
    config = config or SandboxConfig()
    app = create_sandbox(config, get_client=get_client)
    state: SandboxState = app.state.sandbox
    listener = listen(config.host, config.port)
    host, port = listener.getsockname()[:2]
    server = SandboxServer(app, let_go=state.faults.clear, handle_signals=False)
    serving = asyncio.create_task(server.serve(sockets=[listener]), name="sandbox")
    try:
        await server.until_ready(serving)
        yield RunningSandbox(f"http://{host}:{port}", state)
    finally:
        server.should_exit = True
        await serving


def serve_sandbox(*, host: str, port: int, app_secret: str, callbacks: Sequence[str]) -> None:
    """Until SIGTERM or SIGINT, in an event loop of its own. Raises `SettingsError` when the port is taken."""
    config = SandboxConfig(host=host, port=port, app_secret=app_secret, callback_urls=tuple(callbacks))
    try:
        listener = listen(host, port)
    except OSError as exc:
        raise SettingsError({"--port": f"{port} cannot be used on {host}: {exc.strerror}"}) from exc
    app = create_sandbox(config)
    state: SandboxState = app.state.sandbox
    server = SandboxServer(app, let_go=state.faults.clear, handle_signals=True)
    sys.stdout.write(f"sandbox: http://{host}:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(_serve(server, listener))


async def _serve(server: SandboxServer, listener: socket.socket) -> None:
    try:
        await server.serve(sockets=[listener])
    finally:
        await close_http_client()
