"""The WhatsApp Cloud API: sending, and what each of Meta's error codes means to us.

A send has no idempotency key, so one distinction must never blur: whether it can have gone out. `Unavailable`,
`SendThrottled`, `SendRejected` and `AccountRejected` say that it has not, `SendAmbiguous` that it is not known.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import lru_cache
from typing import TypeVar
from urllib.parse import quote

from app.core.circuit_breaker import (
    FAILED,
    IGNORED,
    CircuitBreaker,
    KeyedCircuitBreakers,
    Verdict,
    default_classify,
    whatsapp_account_breakers,
    whatsapp_circuit_breaker,
    whatsapp_media_breakers,
)
from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.deadline import Deadline
from app.core.errors import Overloaded
from app.core.http_client import (
    MEDIA_SECONDS,
    AmbiguousFailure,
    BodyTooLarge,
    ConnectFailed,
    ForbiddenHost,
    GetClient,
    HttpError,
    PoolFull,
    Response,
    download,
    get_http_client,
    get_http_client_for_media,
    get_http_client_for_probes,
    parse_retry_after,
    request,
    upload,
)
from app.core.resilience import ResiliencePolicy
from app.core.retry import is_unavailable
from app.core.secrets import SecretError, TokenCipher
from app.core.slots import Slots
from app.domain.errors import (
    AccountRejected,
    InvalidInput,
    MediaGone,
    MediaTooLarge,
    SendAmbiguous,
    SendError,
    SendRejected,
    SendThrottled,
    Unavailable,
)
from app.domain.media import UNKNOWN_MIME, OutgoingFile, plain_mime, sha256_hex
from app.domain.models import TEXT_LIMIT, Account, BlockReason, Recipient
from app.domain.ports import Offered, Pieces

T = TypeVar("T")

DEPENDENCY = "whatsapp"
ATTEMPT_SECONDS = 10.0
SEND_SECONDS = 25.0
"""For all attempts of one send; only those that certainly failed are repeated."""
PROBE_SECONDS = 5.0
NO_GRAPH_API = "what answers there is not the Graph API"
UNKNOWN_PATH = "the Graph API knows no such path or version:"
_UNKNOWN_PATHS = ("Unknown path components", "aliases you requested do not exist")
"""Meta's words where version and id are not where they belong, or the version is none."""
NUMBER_FIELDS = "id,display_phone_number,verified_name,quality_rating"
CONFIRM_SECONDS = 5.0
MAX_CONFIRMS = 5
"""At once: the connections to WhatsApp are there for the messages."""
MAX_TOKENS = 1000
"""Of accounts, kept open: an answer needs its account's token twice, and to decrypt one takes 0.08 ms."""
MEDIA_CONCURRENT = 10
MEDIA_DEPENDENCY = "whatsapp_media"
MEDIA_KEY = "files"
MEDIA_TOTAL_SECONDS = 45.0
"""For all attempts to fetch one file."""
CALLBACK_DATA_LIMIT = 512
MEDIA_HOSTS = (".fbsbx.com", ".fbcdn.net", ".whatsapp.net", ".facebook.com")
"""Where Meta's media URLs lead; a token goes nowhere else (Cloud API, media)."""

_TROUBLE = frozenset({1, 2, 131000, 131016, 131057, 133004, 2494100})
"""Meta's own trouble: worth a retry, counts against the service."""
_THROTTLED: Mapping[int, float | None] = {
    **dict.fromkeys((4, 17, 32, 341, 613, *range(80000, 80015)), 60.0), 130429: 1.0, 131056: None,
}  # fmt: skip
"""Limits, and the seconds to wait if Meta names none: those of the app, the user, the page and the business (80000 to
80014) are counted by the hour, the number's by the second; the pair's grows with the attempts, which only the caller
knows. Source: Graph API, rate limits and error codes; Cloud API, error codes."""
_ACCOUNT: Mapping[int, BlockReason] = {
    **dict.fromkeys((0, 102, 190), BlockReason.TOKEN_INVALID),
    **dict.fromkeys((3, 10, 131005, *range(200, 300)), BlockReason.PERMISSION_MISSING),
    **dict.fromkeys((33, 131045, 133010), BlockReason.NUMBER_NOT_REGISTERED),
    **dict.fromkeys((131048, 131064), BlockReason.MESSAGING_LIMIT),
    368: BlockReason.POLICY_VIOLATION,
    131031: BlockReason.ACCOUNT_LOCKED,
    131037: BlockReason.DISPLAY_NAME_UNAPPROVED,
    131042: BlockReason.PAYMENT_PROBLEM,
}
"""This account's token, permissions, payment or number, and what is wrong with it."""
_REJECTED = frozenset({
    100, 130403, 130472, 130497, 130501, 131008, 131009, 131021, 131026, 131030, 131047, 131049, 131050, 131051, 131052,
    131053, 131062, 133016, 135000, 137000, *range(132000, 133000),
})  # fmt: skip
"""This message, for good."""
_BAD_TOKEN = frozenset({0, 190})
"""Invalid, expired or revoked (Graph API, "Authorization errors")."""
_DELETED_NUMBER = (100, 33)
"""Code and subcode of a phone_number_id that does not exist, or not for this token (Graph API)."""


class WhatsAppMessenger:
    """Implements `domain.ports.Messenger` and `domain.ports.MediaSource`."""

    def __init__(
        self,
        *,
        base_url: str,
        api_version: str,
        cipher: TokenCipher,
        max_concurrent: int = 50,
        breaker: CircuitBreaker = whatsapp_circuit_breaker,
        account_breakers: KeyedCircuitBreakers = whatsapp_account_breakers,
        media_breaker: CircuitBreaker | None = None,
        get_client: GetClient = get_http_client,
        get_probe_client: GetClient = get_http_client_for_probes,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._base_url = base_url
        self._api_version = api_version
        self._decrypt = lru_cache(maxsize=MAX_TOKENS)(cipher.decrypt)
        self._breaker = breaker
        self._account_breakers = account_breakers
        self._get_client = get_client
        self._get_probe_client = get_probe_client
        self._clock = clock
        self._confirming = asyncio.Semaphore(MAX_CONFIRMS)
        self._policy = ResiliencePolicy(
            DEPENDENCY,
            breaker=breaker,
            attempt_timeout_seconds=ATTEMPT_SECONDS,
            max_attempts=3,
            slots=Slots(max_concurrent),
            classify=_classify,
            timed_out=lambda seconds: SendAmbiguous(f"no answer within {seconds:.1f} s"),
            clock=clock,
        )
        self._media_breaker = media_breaker or whatsapp_media_breakers.get(MEDIA_KEY)
        self._media_policy = ResiliencePolicy(
            MEDIA_DEPENDENCY,
            breaker=self._media_breaker,
            attempt_timeout_seconds=MEDIA_SECONDS,
            max_attempts=3,
            slots=Slots(MEDIA_CONCURRENT),
            patience_seconds=MEDIA_TOTAL_SECONDS,
            classify=_classify_media,
            retry_if=_may_fetch_again,
            clock=clock,
        )
        self._upload_policy = ResiliencePolicy(
            DEPENDENCY,
            breaker=breaker,
            attempt_timeout_seconds=MEDIA_SECONDS,
            max_attempts=3,
            slots=Slots(MEDIA_CONCURRENT),
            classify=_classify,
            clock=clock,
        )

    async def send_text(
        self,
        account: Account,
        to: Recipient,
        text: str,
        *,
        outbound_key: str,
        ensure_held: Callable[[], None] = lambda: None,
    ) -> str:
        if not 0 < len(text) <= TEXT_LIMIT:
            raise ValueError(f"a text message has 1 to {TEXT_LIMIT} characters, not {len(text)}")
        if len(outbound_key) > CALLBACK_DATA_LIMIT:
            raise ValueError(f"an outbound key has at most {CALLBACK_DATA_LIMIT} characters")
        body = _message(to, "text", {"body": text, "preview_url": False}, outbound_key)
        return await self._sent(account, body, ensure_held)

    async def _sent(self, account: Account, body: Mapping[str, object], ensure_held: Callable[[], None]) -> str:
        deadline = Deadline.after(SEND_SECONDS, self._clock)
        response = await self._policy.call(
            self._send, account.phone_number_id, self._token(account), body, ensure_held, deadline=deadline
        )
        wamid = _wamid(response)
        if wamid is None:
            raise SendAmbiguous("accepted without a message id")
        return wamid

    async def mark_read(self, account: Account, wa_message_id: str, *, typing: bool) -> None:
        body: dict[str, object] = {"messaging_product": "whatsapp", "status": "read", "message_id": wa_message_id}
        if typing:
            body["typing_indicator"] = {"type": "text"}
        # Past policy and circuits: what happens to a courtesy says nothing about sends and takes nothing of theirs.
        # It does not stand in line before them either, and has as much time as they: cut off it costs its connection.
        await self._post(account.phone_number_id, self._token(account), body, waits_for_turn=False)

    async def send_file(
        self,
        account: Account,
        to: Recipient,
        file: OutgoingFile,
        *,
        outbound_key: str,
        ensure_held: Callable[[], None] = lambda: None,
    ) -> str:
        node: dict[str, object] = {"id": file.uploaded_id}
        if file.caption:
            node["caption"] = file.caption
        if file.kind == "document" and file.name:
            node["filename"] = file.name
        return await self._sent(account, _message(to, file.kind, node, outbound_key), ensure_held)

    async def upload_file(self, account: Account, *, name: str, mime: str, size: int, pieces: Pieces) -> str:
        token = self._token(account)
        deadline = Deadline.after(2 * MEDIA_SECONDS, self._clock)
        return await self._upload_policy.call(
            self._upload, account.phone_number_id, token, name, mime, size, pieces, deadline=deadline
        )

    async def _upload(self, number: str, token: str, name: str, mime: str, size: int, pieces: Pieces) -> str:
        breaker = self._account_breakers.get(number)
        return await breaker.run(_classify_for_account, self._post_file, number, token, name, mime, size, pieces)

    async def _post_file(self, number: str, token: str, name: str, mime: str, size: int, pieces: Pieces) -> str:
        """Twice is no harm: nothing is sent by it, and what is not used is forgotten after 30 days."""
        try:
            response = await upload(
                f"{self._node(number)}/media",
                fields={"messaging_product": "whatsapp", "type": mime},
                name=name,
                mime_type=mime,
                size=size,
                pieces=pieces(),
                headers=_bearer(token),
            )
        except PoolFull as exc:
            raise Overloaded(DEPENDENCY, f"whatsapp: {exc}") from exc
        except HttpError as exc:
            raise Unavailable(DEPENDENCY, f"whatsapp: {exc}") from exc
        if response.status != 200:
            raise _definite(failure_of(response))
        media_id = _json(response).get("id")
        if not isinstance(media_id, str) or not media_id:
            raise Unavailable(DEPENDENCY, "whatsapp: took a file without telling its id")
        return media_id

    async def fetch_media(
        self, account: Account, source_id: str, *, max_bytes: int, take: Callable[[Offered], Awaitable[T]]
    ) -> T:
        """The URL lives five minutes, so it is asked for anew with every attempt. The account's own circuit is as of
        its sends; the media host's is its own."""
        token = self._token(account)
        deadline = Deadline.after(MEDIA_TOTAL_SECONDS, self._clock)
        return await self._media_policy.call(
            self._fetch, account.phone_number_id, token, source_id, max_bytes, take, deadline=deadline
        )

    def media_blocked_seconds(self) -> float:
        return self._media_breaker.blocked_seconds()

    async def _fetch(
        self,
        phone_number_id: str,
        token: str,
        source_id: str,
        max_bytes: int,
        take: Callable[[Offered], Awaitable[T]],
    ) -> T:
        breaker = self._account_breakers.get(phone_number_id)
        return await breaker.run(_classify_for_account, self._download, token, source_id, max_bytes, take)

    async def _download(self, token: str, source_id: str, max_bytes: int, take: Callable[[Offered], Awaitable[T]]) -> T:
        headers = _bearer(token)
        try:
            described = await request(
                "GET", self._node(source_id), timeout_seconds=ATTEMPT_SECONDS, headers=headers,
                get_client=get_http_client_for_media,
            )  # fmt: skip
            if described.status != 200:
                raise _media_failure(described)
            about = _json(described)
            size = about.get("file_size")
            size = int(size) if isinstance(size, (int, str)) and str(size).isdecimal() else None
            if size is not None and size > max_bytes:
                raise MediaTooLarge(f"media: {size} bytes, more than {max_bytes}")

            async def taken(status: int, pieces: AsyncIterator[bytes]) -> T:
                if status != 200:
                    raise Unavailable(MEDIA_DEPENDENCY, f"whatsapp: media answered HTTP {status}")
                mime = plain_mime(about.get("mime_type"))
                return await take(
                    Offered(None if mime == UNKNOWN_MIME else mime, sha256_hex(about.get("sha256")), size, pieces)
                )

            return await download(
                str(about.get("url")),
                allowed_hosts=(*MEDIA_HOSTS, self._base_url),
                headers=headers,
                max_body_bytes=max_bytes,
                take=taken,
            )
        except PoolFull as exc:
            raise Overloaded(MEDIA_DEPENDENCY, f"whatsapp: {exc}") from exc
        except BodyTooLarge as exc:
            raise MediaTooLarge(f"media: {exc}") from exc
        except ForbiddenHost as exc:
            raise MediaGone(f"media: {exc}") from exc
        except HttpError as exc:
            raise Unavailable(MEDIA_DEPENDENCY, f"whatsapp: {exc}") from exc

    def blocked_seconds(self, account: Account) -> float:
        own = self._account_breakers.find(account.phone_number_id)
        return max(self._breaker.blocked_seconds(), own.blocked_seconds() if own else 0.0)

    def blocked_reason(self, account: Account) -> str:
        own = self._account_breakers.find(account.phone_number_id)
        if own and own.blocked_seconds() > self._breaker.blocked_seconds():
            return f"the account's {own.blocked_reason()}"
        return self._breaker.blocked_reason()

    def silent_seconds(self) -> float:
        return self._policy.silent_seconds()

    async def probe(self) -> Mapping[str, object]:
        """Does the API answer at all? Past the breakers and without a token. Raises `Unavailable`."""
        response = await self._look_up(f"{self._base_url}/", PROBE_SECONDS, get_client=self._get_probe_client)
        if response.status >= 500:
            raise Unavailable(DEPENDENCY, f"whatsapp: HTTP {response.status}")
        return {}

    async def find_api(self) -> None:
        """Is it the Graph API that answers, and does it have our version? The Graph API answers everything in JSON, and
        what comes without a token with an `error`. Past the breakers. Raises `Unavailable`."""
        response = await self._look_up(self._node("me"), PROBE_SECONDS, get_client=self._get_probe_client)
        error = _json(response).get("error")
        if response.status >= 500:
            raise Unavailable(DEPENDENCY, f"whatsapp: HTTP {response.status}")
        if not isinstance(error, dict):
            raise Unavailable(DEPENDENCY, f"whatsapp: {NO_GRAPH_API} (HTTP {response.status})")
        if any(words in str(error.get("message")) for words in _UNKNOWN_PATHS):
            raise Unavailable(DEPENDENCY, f"whatsapp: {UNKNOWN_PATH} {self._api_version}")

    async def describe_number(self, account: Account) -> Mapping[str, object]:
        """What Meta says of the account's number with the account's token: `display_phone_number`, `verified_name`,
        `quality_rating`, … (Graph API, WhatsApp Business phone number). Past the breakers: it is how one finds out.
        Raises a `SendError` for Meta's refusals, `Unavailable` for everything else."""
        url = f"{self._node(account.phone_number_id)}?fields={NUMBER_FIELDS}"
        response = await self._look_up(url, ATTEMPT_SECONDS, token=self._token(account))
        if response.status != 200:
            raise _definite(failure_of(response))
        return _json(response)

    async def confirm_number(self, phone_number_id: str, access_token: str) -> None:
        """Past the circuits: what strangers send here must not stop anybody's messages. Asked once."""
        if self._confirming.locked():
            raise Overloaded(DEPENDENCY, "whatsapp: as many numbers are being confirmed as may be")
        async with self._confirming:
            url = f"{self._node(phone_number_id)}?fields=id"
            response = await self._look_up(url, CONFIRM_SECONDS, token=access_token)
        if response.status == 200 and _json(response).get("id") == phone_number_id:
            return
        raise _not_confirmed(response)

    async def _look_up(
        self, url: str, seconds: float, *, token: str | None = None, get_client: GetClient | None = None
    ) -> Response:
        """Nothing is sent by it, so every failure of the exchange is `Unavailable`."""
        headers = _bearer(token) if token is not None else None
        get_client = get_client or self._get_client
        try:
            return await request("GET", url, timeout_seconds=seconds, headers=headers, get_client=get_client)
        except HttpError as exc:
            raise Unavailable(DEPENDENCY, f"whatsapp: {exc}") from exc

    def _node(self, node_id: str) -> str:
        """The URL of a node of the Graph API."""
        return f"{self._base_url}/{self._api_version}/{quote(node_id, safe='')}"

    def _token(self, account: Account) -> str:
        return open_token(self._decrypt, account)

    async def _send(
        self,
        phone_number_id: str,
        token: str,
        body: Mapping[str, object],
        ensure_held: Callable[[], None] = lambda: None,
    ) -> Response:
        """One attempt: the service's circuit has let it through, now the account's own."""
        breaker = self._account_breakers.get(phone_number_id)
        return await breaker.run(_classify_for_account, self._post_held, phone_number_id, token, body, ensure_held)

    async def _post_held(
        self, phone_number_id: str, token: str, body: Mapping[str, object], ensure_held: Callable[[], None]
    ) -> Response:
        ensure_held()
        return await self._post(phone_number_id, token, body)

    async def _post(
        self, phone_number_id: str, token: str, body: Mapping[str, object], *, waits_for_turn: bool = True
    ) -> Response:
        try:
            response = await request(
                "POST",
                f"{self._node(phone_number_id)}/messages",
                timeout_seconds=ATTEMPT_SECONDS,
                headers=_bearer(token),
                payload=body,
                get_client=self._get_client,
                waits_for_turn=waits_for_turn,
            )
        except PoolFull as exc:
            raise Overloaded(DEPENDENCY, f"whatsapp: {exc}") from exc
        except ConnectFailed as exc:
            raise Unavailable(DEPENDENCY, f"whatsapp: {exc}") from exc
        except AmbiguousFailure as exc:
            raise SendAmbiguous(f"{exc} after the request was sent") from exc
        if response.status != 200:
            raise failure_of(response)
        return response


def open_token(decrypt: Callable[[str], str], account: Account) -> str:
    """The account's token as it is sent. Raises `AccountRejected` if nothing can be sent with it."""
    try:
        token = decrypt(account.access_token)
    except SecretError as exc:
        raise AccountRejected(
            "the account's token cannot be decrypted: it was stored under another ENCRYPTION_KEY",
            reason=BlockReason.TOKEN_UNREADABLE,
        ) from exc
    if not token.isascii() or not token.isprintable():
        raise AccountRejected("the account's token has characters no token has", reason=BlockReason.TOKEN_MALFORMED)
    return token


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def _message(to: Recipient, kind: str, content: Mapping[str, object], outbound_key: str) -> dict[str, object]:
    return {
        "messaging_product": "whatsapp", "recipient_type": "individual", **_address(to), "type": kind, kind: content,
        "biz_opaque_callback_data": outbound_key,
    }  # fmt: skip


def _address(to: Recipient) -> dict[str, str]:
    if to.wa_id:
        return {"to": f"+{to.wa_id}"}
    if to.user_id:
        return {"recipient": to.user_id}
    raise ValueError("a recipient needs a wa_id or a user_id")


def failure_of(response: Response) -> Exception:
    """By `error.code`; the HTTP status only decides where there is none that we know."""
    error = _error(response)
    code = error.get("code")
    message = f"HTTP {response.status}"
    retry_after = parse_retry_after(response.headers.get("retry-after"))
    if not isinstance(code, int):
        if response.status >= 500:
            return SendAmbiguous(f"{message} without an error body")
        if response.status == 429:
            return SendThrottled(f"{message} without an error body", retry_after=retry_after)
        return Unavailable(DEPENDENCY, f"whatsapp: {message} without an error body", retry_after=retry_after)
    message = f"{message}, code {code}"  # what Meta writes beside it quotes parameters, with their values
    if code in _THROTTLED:
        told = _THROTTLED[code] if retry_after is None else retry_after
        return SendThrottled(message, wa_code=code, retry_after=told)
    if (code, error.get("error_subcode")) == _DELETED_NUMBER:
        return AccountRejected(message, wa_code=code, reason=BlockReason.NUMBER_NOT_REGISTERED)
    if code in _ACCOUNT:
        return AccountRejected(message, wa_code=code, reason=_ACCOUNT[code])
    if code in _TROUBLE:
        return Unavailable(DEPENDENCY, f"whatsapp: {message}", retry_after=retry_after)
    return _unlisted(response.status, code, message, retry_after)


def _unlisted(status: int, code: int, message: str, retry_after: float | None) -> Exception:
    """This message's own fault, or a code of none of our lists, which the HTTP status explains."""
    if code in _REJECTED:
        return SendRejected(message, wa_code=code)
    if status == 429:
        return SendThrottled(message, wa_code=code, retry_after=retry_after)
    if status == 401:
        return AccountRejected(message, wa_code=code, reason=BlockReason.TOKEN_INVALID)
    if status >= 500:
        return Unavailable(DEPENDENCY, f"whatsapp: {message}", retry_after=retry_after)
    return SendRejected(message, wa_code=code)


def _not_confirmed(response: Response) -> Exception:
    """Why a token does not prove that its holder may use a number."""
    code = _error(response).get("code")
    if response.status == 200:
        return InvalidInput(
            "WhatsApp does not know this number as a phone_number_id; copy it from the app's API setup page",
            field="phone_number_id",
        )
    failure = failure_of(response)
    if isinstance(failure, AccountRejected | SendRejected):
        if code in _BAD_TOKEN:
            return InvalidInput(
                "WhatsApp does not accept this access_token; create a permanent token of a system user",
                field="access_token",
            )
        return InvalidInput(
            "WhatsApp does not open this number with this access_token; give the token's system user the WhatsApp"
            " account and the permission whatsapp_business_management",
            field="phone_number_id",
        )
    if isinstance(failure, Unavailable):
        return failure
    return Unavailable(DEPENDENCY, f"whatsapp: {failure}", retry_after=getattr(failure, "retry_after", None))


def _error(response: Response) -> Mapping[str, object]:
    body = _json(response)
    error = body.get("error")
    return error if isinstance(error, dict) else {}


def _wamid(response: Response) -> str | None:
    messages = _json(response).get("messages")
    first = messages[0] if isinstance(messages, list) and messages else None
    wamid = first.get("id") if isinstance(first, dict) else None
    return wamid if isinstance(wamid, str) and wamid else None


def _json(response: Response) -> Mapping[str, object]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _classify(exc: Exception) -> Verdict:
    """For the service's circuit: silence counts, a verdict on one message or account does not."""
    if isinstance(exc, SendAmbiguous):
        return FAILED
    return IGNORED if isinstance(exc, SendError) else default_classify(exc)


def _media_failure(described: Response) -> Exception:
    """Of the question where a file is: nothing was sent, so no failure is ambiguous."""
    failure = failure_of(described)
    error = _error(described)
    if (error.get("code"), error.get("error_subcode")) == _DELETED_NUMBER or described.status == 404:
        return MediaGone(f"media: HTTP {described.status}, code {error.get('code')}")
    if isinstance(failure, Unavailable | SendAmbiguous):
        return Unavailable(MEDIA_DEPENDENCY, f"whatsapp: {failure}")
    if isinstance(failure, SendThrottled):
        return Unavailable(MEDIA_DEPENDENCY, f"whatsapp: {failure}", retry_after=failure.retry_after)
    return failure


def _definite(failure: Exception) -> Exception:
    return Unavailable(DEPENDENCY, f"whatsapp: {failure}") if isinstance(failure, SendAmbiguous) else failure


def _classify_media(exc: Exception) -> Verdict:
    """What befalls the place where a file is put says nothing about where it comes from."""
    return FAILED if _is_the_hosts(exc) else IGNORED


def _may_fetch_again(exc: BaseException) -> bool:
    return _is_the_hosts(exc)


def _is_the_hosts(exc: BaseException) -> bool:
    own = isinstance(exc, Unavailable) and exc.dependency == MEDIA_DEPENDENCY
    return own and is_unavailable(exc) and not isinstance(exc, Overloaded)


def _classify_for_account(exc: Exception) -> Verdict:
    return FAILED if isinstance(exc, AccountRejected) else IGNORED
