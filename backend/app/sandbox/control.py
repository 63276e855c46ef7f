"""`/sandbox/…`: faults, record, accounts, callbacks, limits, media, all while the sandbox runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.sandbox.config import APP_ID, TOKEN_SCOPES, Behaviour, SandboxAccount
from app.sandbox.delivery import Undelivered
from app.sandbox.exchange import BodyTooLarge, read_body
from app.sandbox.faults import MAX_RULES, FaultSpec, TooManyFaults
from app.sandbox.record import MAX_WAITERS, Filter, TooManyWaiters
from app.sandbox.state import MAX_ACCOUNTS, SandboxState
from app.sandbox.statuses import StatusFeed
from app.sandbox.webhooks import Person, envelope, messages_change
from app.sandbox.webhooks import text as text_message

MAX_BODY_BYTES = 1024 * 1024
MAX_MEDIA_BYTES = 100 * 1024 * 1024
MAX_SAYS_CHARACTERS = 4000
"""The largest document WhatsApp takes."""
MAX_WAIT_SECONDS = 120.0
MAX_SAY_SECONDS = 30.0

Handler = Callable[[Request], Awaitable[Response]]
M = TypeVar("M", bound=BaseModel)


class ControlError(Exception):
    def __init__(self, message: str, *, status: int = 422, code: str = "invalid_input") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _http_url(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    return url


class AccountSpec(_Model):
    phone_number_id: str = Field(pattern=r"^\d{1,40}$")
    access_token: str = Field(min_length=1, max_length=1000)
    display_phone_number: str = Field(default="15550783881", pattern=r"^\d{5,20}$")
    waba_id: str = Field(default="102290129340398", pattern=r"^\d{1,40}$")
    verified_name: str = Field(default="Sandbox", max_length=100)
    quality_rating: Literal["GREEN", "YELLOW", "RED", "UNKNOWN"] = "GREEN"
    messaging_limit_tier: str = Field(default="TIER_1K", pattern=r"^TIER_[A-Z0-9_]{1,20}$")
    status: str = Field(default="CONNECTED", pattern=r"^[A-Z_]{1,30}$")
    name_status: str = Field(default="APPROVED", pattern=r"^[A-Z_]{1,40}$")
    can_send_message: Literal["AVAILABLE", "LIMITED", "BLOCKED"] = "AVAILABLE"
    token_valid: bool = True
    token_expires_at: int = Field(default=0, ge=0)
    token_scopes: tuple[str, ...] = Field(default=TOKEN_SCOPES, max_length=20)
    app_id: str = Field(default=APP_ID, pattern=r"^\d{5,20}$")
    subscribed_apps: tuple[str, ...] = Field(default=(APP_ID,), max_length=20)


class CallbackSpec(_Model):
    urls: tuple[Annotated[str, AfterValidator(_http_url)], ...] = Field(max_length=100)
    app_secret: str | None = Field(default=None, min_length=1, max_length=200)


class SaySpec(_Model):
    """A customer writes `text`. `sender`: digits; `phone_number_id`: the first account that was added, if absent."""

    text: str = Field(min_length=1, max_length=4096)
    sender: str = Field(default="33600000000", pattern=r"^\d{5,20}$")
    name: str = Field(default="You", min_length=1, max_length=100)
    phone_number_id: str | None = None


class CustomerSpec(_Model):
    """`to`: digits or a business-scoped user id; `last_message_at` in Unix seconds, now if absent."""

    phone_number_id: str
    to: str
    last_message_at: float | None = None


class _Query(_Model):
    """Of `/sandbox/record` and `/sandbox/record/wait`."""

    after: int = Field(default=0, ge=0)
    limit: int = Field(default=1000, ge=1, le=200_000)
    count: int = Field(default=1, ge=1, le=200_000)
    timeout: float = Field(default=10.0, ge=0, le=MAX_WAIT_SECONDS)
    kind: str | None = None
    phone_number_id: str | None = None
    to: str | None = None
    wamid: str | None = None
    callback_data: str | None = None
    model: str | None = None
    state: str | None = None
    code: str | None = None
    processed: bool | None = None
    status: int | None = None
    fault: int | None = None

    def filter(self) -> Filter:
        wanted = self.model_dump(exclude_none=True, exclude={"after", "limit", "count", "timeout"})
        return Filter(wanted, self.after)


class Control:
    def __init__(self, state: SandboxState, statuses: StatusFeed) -> None:
        self._state = state
        self._statuses = statuses

    def routes(self) -> list[BaseRoute]:
        table: list[tuple[str, str, Handler]] = [
            ("GET", "/sandbox", self.overview),
            ("POST", "/sandbox/reset", self.reset),
            ("POST", "/sandbox/faults", self.add_fault),
            ("GET", "/sandbox/faults", self.list_faults),
            ("DELETE", "/sandbox/faults", self.clear_faults),
            ("GET", "/sandbox/faults/{id:int}", self.get_fault),
            ("DELETE", "/sandbox/faults/{id:int}", self.remove_fault),
            ("GET", "/sandbox/record", self.find),
            ("DELETE", "/sandbox/record", self.clear_record),
            ("GET", "/sandbox/record/wait", self.wait),
            ("GET", "/sandbox/record/summary", self.summary),
            ("POST", "/sandbox/accounts", self.add_account),
            ("PUT", "/sandbox/callbacks", self.set_callbacks),
            ("PATCH", "/sandbox/behaviour", self.change_behaviour),
            ("POST", "/sandbox/customers", self.customer_wrote),
            ("POST", "/sandbox/say", self.say),
            ("POST", "/sandbox/media", self.upload),
        ]
        return [Route(path, _guarded(handler), methods=[method]) for method, path, handler in table]

    async def overview(self, _: Request) -> Response:
        return _json(
            {
                "status": "ok",
                "accounts": list(self._state.accounts),
                "callbacks": list(self._statuses.sender.callback_urls),
                "behaviour": self._state.behaviour.model_dump(),
                "statuses": self._statuses.stats(),
                "record": self._state.record.summary(),
                "faults": [fault.to_json() for fault in self._state.faults.all()],
            }
        )

    async def reset(self, _: Request) -> Response:
        """Faults, record, limits, media gone; accounts, callbacks and behaviour as configured."""
        self._state.reset()
        self._statuses.reset()
        return _json({"status": "ok"})

    async def add_fault(self, request: Request) -> Response:
        try:
            fault = self._state.faults.add(await _read(request, FaultSpec))
        except TooManyFaults:
            raise ControlError(f"at most {MAX_RULES} faults", status=409, code="too_many") from None
        return _json(fault.to_json(), 201)

    async def list_faults(self, _: Request) -> Response:
        return _json({"faults": [fault.to_json() for fault in self._state.faults.all()]})

    async def get_fault(self, request: Request) -> Response:
        fault = self._state.faults.get(request.path_params["id"])
        if fault is None:
            raise ControlError("no such fault", status=404, code="fault_not_found")
        return _json(fault.to_json())

    async def remove_fault(self, request: Request) -> Response:
        if not self._state.faults.remove(request.path_params["id"]):
            raise ControlError("no such fault", status=404, code="fault_not_found")
        return _json({"status": "ok"})

    async def clear_faults(self, _: Request) -> Response:
        self._state.faults.clear()
        return _json({"status": "ok"})

    async def find(self, request: Request) -> Response:
        query = _validated(_Query, dict(request.query_params))
        entries = self._state.record.find(query.filter(), query.limit)
        return _json({"entries": [entry.to_json() for entry in entries]})

    async def wait(self, request: Request) -> Response:
        """Long poll: `complete` tells whether `count` entries came within `timeout` seconds."""
        query = _validated(_Query, dict(request.query_params))
        try:
            entries = await self._state.record.wait(query.filter(), query.count, query.timeout)
        except TooManyWaiters:
            raise ControlError(f"at most {MAX_WAITERS} waits at once", status=429, code="too_many") from None
        return _json({"complete": len(entries) >= query.count, "entries": [entry.to_json() for entry in entries]})

    async def summary(self, _: Request) -> Response:
        return _json(self._state.record.summary())

    async def clear_record(self, _: Request) -> Response:
        self._state.record.clear()
        return _json({"status": "ok"})

    async def add_account(self, request: Request) -> Response:
        spec = await _read(request, AccountSpec)
        if len(self._state.accounts) >= MAX_ACCOUNTS:
            raise ControlError(f"at most {MAX_ACCOUNTS} accounts", status=409, code="too_many")
        self._state.accounts[spec.phone_number_id] = SandboxAccount(**spec.model_dump())
        return _json({"phone_number_id": spec.phone_number_id}, 201)

    async def set_callbacks(self, request: Request) -> Response:
        spec = await _read(request, CallbackSpec)
        self._statuses.sender.callback_urls = spec.urls
        if spec.app_secret:
            self._statuses.sender.app_secret = spec.app_secret
        return _json({"urls": list(spec.urls)})

    async def change_behaviour(self, request: Request) -> Response:
        """Any subset of the fields; the others stay."""
        changes = await _read_json(request)
        if not isinstance(changes, dict):
            raise ControlError("the body must be a JSON object")
        self._state.behaviour = _validated(Behaviour, self._state.behaviour.model_dump() | changes)
        return _json(self._state.behaviour.model_dump())

    async def customer_wrote(self, request: Request) -> Response:
        spec = await _read(request, CustomerSpec)
        at = time.time() if spec.last_message_at is None else spec.last_message_at
        self._state.limits.customer_wrote(spec.phone_number_id, spec.to.lstrip("+"), at)
        return _json({"last_message_at": at})

    async def say(self, request: Request) -> Response:
        """Deliver a text as that customer's, signed, to a callback url, again until one says 200. `after` in the answer
        is the record's position before it: `/sandbox/record/wait?kind=send&to=…&after=…` finds the reply."""
        spec = await _read(request, SaySpec)
        sender = self._statuses.sender
        if not sender.callback_urls:
            raise ControlError("no callback url is set: start with --callback or PUT /sandbox/callbacks", status=409)
        number = spec.phone_number_id or next(iter(self._state.accounts), None)
        if number is None:
            raise ControlError("no account was added: name a phone_number_id", status=409)
        person = Person(spec.sender, spec.name)
        message = text_message(person, spec.text)
        after = self._state.record.summary()["last_seq"]
        change = messages_change(self._state.business(number), [message], [person])
        try:
            async with asyncio.timeout(MAX_SAY_SECONDS):
                await sender.deliver(envelope(change))
        except (Undelivered, TimeoutError):
            raise ControlError("no replica accepted the message", status=502, code="undelivered") from None
        self._state.limits.customer_wrote(number, spec.sender, time.time())
        return _json({"id": message["id"], "to": spec.sender, "phone_number_id": number, "after": after})

    async def upload(self, request: Request) -> Response:
        """The body is the file; `?says=` is what the stand-in for Gemini hears in it, or sees."""
        content = await read_body(request, MAX_MEDIA_BYTES)
        media = self._state.media.add(content, request.headers.get("content-type", "application/octet-stream"))
        if says := request.query_params.get("says"):
            self._state.ear.learn(media.sha256, says[:MAX_SAYS_CHARACTERS])
        described = {"id": media.id, "mime_type": media.mime_type, "sha256": media.sha256, "file_size": len(content)}
        return _json(described, 201)


def _guarded(handler: Handler) -> Handler:
    async def guarded(request: Request) -> Response:
        try:
            return await handler(request)
        except ControlError as exc:
            return _json({"error": {"code": exc.code, "message": str(exc)}}, exc.status)
        except BodyTooLarge:
            return _json({"error": {"code": "too_large", "message": "the body is too large"}}, 413)

    return guarded


async def _read(request: Request, model: type[M]) -> M:
    return _validated(model, await _read_json(request))


async def _read_json(request: Request) -> object:
    try:
        return orjson.loads(await read_body(request, MAX_BODY_BYTES))
    except orjson.JSONDecodeError:
        raise ControlError("the body is not JSON", status=400, code="invalid_json") from None


def _validated(model: type[M], values: object) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as exc:
        problems = (
            f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}".removeprefix(": ")
            for error in exc.errors(include_url=False, include_context=False)
        )
        raise ControlError("; ".join(problems)) from None


def _json(payload: object, status: int = 200) -> Response:
    return Response(orjson.dumps(payload), status, media_type="application/json")
