"""WhatsApp and Gemini as the bench needs them: a process that answers at once, or after a time, and counts.

The sandbox does much more for each request, on the core that load generator and servers share.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import Counter
from typing import Any

import orjson

from tests.bench.child import answer_commands, say

ANSWER = "We are open from Tuesday to Sunday, from 7:00 to 19:30. On Mondays we are closed."
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED_END = b"\r\n0\r\n\r\n"


class World:
    """What was asked for so far. `sends`: what identifies each accepted send, in order."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.sends: list[dict[str, Any]] = []
        self.model_seconds = 0.0
        self.events = 0
        self.sent = 0
        """Ever: a number that came again after a reset would be another send's."""
        self.connections = 0
        self.last_send = 0.0

    def answer(self, path: bytes, body: bytes) -> dict[str, Any]:
        if b":generateContent" in path:
            self.calls["generate"] += 1
            part = {"content": {"role": "model", "parts": [{"text": ANSWER}]}, "finishReason": "STOP", "index": 0}
            counted = {"promptTokenCount": 400, "candidatesTokenCount": 20, "totalTokenCount": 420}
            return {"candidates": [part], "usageMetadata": counted, "modelVersion": "stand-in"}
        if path == b"/told":
            self.events += 1
            return {}
        if not path.endswith(b"/messages"):
            self.calls["other"] += 1
            return {"id": "1", "name": "stand-in"}
        asked = orjson.loads(body)
        if asked.get("status") == "read":
            self.calls["typing"] += 1
            return {"success": True}
        self.calls["send"] += 1
        self.sent += 1
        wamid = f"wamid.standin{self.sent:09d}"
        key = asked.get("biz_opaque_callback_data")
        self.sends.append({"wamid": wamid, "to": asked["to"], "key": key, "number": path.split(b"/")[-2].decode()})
        self.last_send = time.monotonic()
        contact = {"input": asked["to"], "wa_id": asked["to"]}
        return {"messaging_product": "whatsapp", "contacts": [contact], "messages": [{"id": wamid}]}


class Exchange(asyncio.Protocol):
    """HTTP/1.1, kept alive, one request at a time on a connection."""

    transport: asyncio.Transport

    def __init__(self, world: World) -> None:
        self._world = world
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._world.connections += 1

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if end else None
        if not end or len(body) < (int(length[1]) if length else 0):
            return
        if length is None and b"chunked" in head.lower() and not body.endswith(_CHUNKED_END):
            return
        self._received = b""
        path = head.split(b" ", 2)[1]
        seconds = self._world.model_seconds if b":generateContent" in path else 0.0
        answer = orjson.dumps(self._world.answer(path, body))
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self._write, answer)
        else:
            self._write(answer)

    def _write(self, body: bytes) -> None:
        if not self.transport.is_closing():
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            self.transport.write(head.encode() + body)


def main() -> None:
    world, loop, listening = World(), asyncio.new_event_loop(), threading.Event()
    port = 0

    async def serve() -> None:
        nonlocal port
        server = await asyncio.get_running_loop().create_server(lambda: Exchange(world), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        listening.set()
        await asyncio.get_running_loop().create_future()

    def reset(model_seconds: float) -> dict[str, Any]:
        world.calls.clear()
        world.sends.clear()
        world.model_seconds = model_seconds
        return {}

    def wait(sends: int, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while world.calls["send"] < sends and time.monotonic() < deadline:
            time.sleep(0.005)
        return {"calls": dict(world.calls), "last_send": world.last_send, "connections": world.connections}

    def sent() -> dict[str, Any]:
        return {"sends": list(world.sends)}

    def events() -> dict[str, Any]:
        return {"events": world.events}

    threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True).start()
    listening.wait()
    say({"port": port})
    answer_commands({"reset": reset, "wait": wait, "sent": sent, "events": events})


if __name__ == "__main__":
    main()
