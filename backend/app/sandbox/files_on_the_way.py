"""Files between WhatsApp's stand-in and a replica: uploads as they are read, downloads as a rule spoils them."""

from __future__ import annotations

import asyncio
from email.parser import BytesParser
from email.policy import HTTP

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.sandbox.exchange import CLOSE_EXTENSION, Answer
from app.sandbox.faults import Fault
from app.sandbox.sends import Refused

ELSEWHERE = "https://files.elsewhere.example/file"


def read_upload(content_type: str, raw: bytes) -> tuple[bytes, str]:
    """Bytes and type of the file. Raises `Refused`."""
    form = BytesParser(policy=HTTP).parsebytes(f"content-type: {content_type}\r\n\r\n".encode() + raw)
    parts = {part.get_param("name", header="content-disposition"): part for part in form.iter_parts()}
    for name in ("messaging_product", "type", "file"):
        if name not in parts:
            raise Refused(f"The parameter {name} is required.")
    if str(parts["messaging_product"].get_payload()).strip() != "whatsapp":
        raise Refused("The parameter messaging_product must be whatsapp.")
    content = parts["file"].get_payload(decode=True)
    if not isinstance(content, bytes) or not content:
        raise Refused("The file is empty.")
    return content, parts["file"].get_content_type()


def spoiled_file(how: str | None, content: bytes) -> Answer | None:
    """What is answered in place of the file; `None`: the file, which may still end on its way (`HalfSent`)."""
    match how:
        case "wrong_bytes":
            return Answer(200, bytes(byte ^ 0xFF for byte in content), content_type="application/octet-stream")
        case "too_long":
            return Answer(200, content + content + b"!", content_type="application/octet-stream")
        case "redirect":
            return Answer(302, b"", content_type="text/plain", headers={"location": ELSEWHERE})
        case _:
            return None


class HalfSent(Response):
    """The first half of an answer, and then the end of the connection, or silence until the rule is deleted."""

    def __init__(self, whole: Response, fault: Fault) -> None:
        super().__init__(whole.body, whole.status_code, dict(whole.headers))
        self._fault = fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body[: len(self.body) // 2])
        await send({"type": "http.response.body", "body": half, "more_body": True})
        if self._fault.spec.file == "stall":
            gone = asyncio.ensure_future(_until_gone(receive))
            freed = asyncio.ensure_future(self._fault.released.wait())
            await asyncio.wait((gone, freed), timeout=self._fault.hang_seconds(), return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            freed.cancel()
        scope["extensions"][CLOSE_EXTENSION](reset=False)
        await _until_gone(receive)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
