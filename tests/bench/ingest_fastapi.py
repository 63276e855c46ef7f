"""How a webhook is usually received: pydantic parses the body, then one XADD a request."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException, Request
from pydantic import BaseModel, Field

from app.core.redis.client import connect
from tests.bench.ingest_server import is_signed, serve
from tests.bench.traffic import PATH


class Profile(BaseModel):
    name: str


class Contact(BaseModel):
    profile: Profile
    wa_id: str


class Text(BaseModel):
    body: str


class Message(BaseModel):
    id: str
    sender: Annotated[str, Field(alias="from")]
    timestamp: str
    type: str
    text: Text | None = None


class Metadata(BaseModel):
    display_phone_number: str
    phone_number_id: str


class Value(BaseModel):
    messaging_product: str
    metadata: Metadata
    contacts: list[Contact] = []
    messages: list[Message] = []


class Change(BaseModel):
    field: str
    value: Value


class Entry(BaseModel):
    id: str
    changes: list[Change]


class Webhook(BaseModel):
    object: str
    entry: list[Entry]


def create_app(redis_url: str, key: bytes) -> FastAPI:
    app = FastAPI()
    redis = connect(redis_url, max_connections=100)

    @app.post(PATH)
    async def receive(
        request: Request, parsed: Webhook, x_hub_signature_256: Annotated[str, Header()]
    ) -> dict[str, int]:
        body = await request.body()
        if not is_signed(key, body, x_hub_signature_256.encode()):
            raise HTTPException(401)
        fields: dict[Any, Any] = {"body": body}
        await redis.xadd("webhooks", fields)
        return {"accepted": len(parsed.entry)}

    return app


def main(keep_alive_seconds: str) -> None:
    app = create_app(os.environ["REDIS_URL"], os.environ["META_APP_SECRET"].encode())
    serve(app, keep_alive_seconds=int(keep_alive_seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
