"""Another system, as a process: `python -m tests.chaos.receiver PORT FILE`. It writes down what it is told, then says
200.

A path that begins with /hang is never answered.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
from pathlib import Path

import orjson

from tests.support.fakes import read_request, response


async def main(port: int, file: Path) -> None:
    notes = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                line, _, body = await read_request(reader)
                if line.split()[1].startswith("/hang"):
                    await reader.read()
                    break
                event = orjson.loads(body)
                digest = hashlib.sha256(body).hexdigest()
                told = {
                    "id": event["id"],
                    "type": event["type"],
                    "data": event["data"],
                    "body": digest,
                    "at": time.time(),
                }
                os.write(notes, orjson.dumps(told) + b"\n")
                writer.write(response(b""))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", port)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
