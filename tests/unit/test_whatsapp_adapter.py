"""The Cloud API: what is sent, and what each error means for retries, both circuits and the caller."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

import httpx
import pytest

from app.adapters.whatsapp import WhatsAppMessenger
from app.core.circuit_breaker import (
    BreakerPolicy,
    CircuitBreaker,
    CircuitBreakerOpenError,
    KeyedCircuitBreakers,
    State,
)
from app.core.errors import Unavailable
from app.core.secrets import TokenCipher
from app.domain.errors import AccountRejected, Fenced, SendAmbiguous, SendError, SendRejected, SendThrottled
from app.domain.models import Account, BlockReason, Recipient
from tests.support.fakes import FakeClock

CIPHER = TokenCipher([TokenCipher.generate_key()])
NOW = datetime(2026, 11, 23, tzinfo=UTC)
TO = Recipient("16505551234", None)
SENT = {"messages": [{"id": "wamid.1"}]}

TROUBLE = [1, 2, 131000, 131016, 131057, 133004, 2494100]
ACCOUNT = [0, 190, 3, 10, 200, 250, 299, 368, 131005, 131031, 131037, 131042, 131045, 131048, 131064, 133010, 33]
PERMANENT = [
    100, 131008, 131009, 131021, 131026, 131030, 131047, 131049, 130472, 131050, 130403, 131051, 131052, 131053, 131062,
    132000, 132001, 132999, 133016, 135000, 137000, 130497, 130501,
]  # fmt: skip


def account(phone_number_id="106540352242922", token="t0ken"):
    return Account(
        id="a1", name="Bakery", slug="bakery", phone_number_id=phone_number_id, access_token=CIPHER.encrypt(token),
        verify_token="v", phone_number=None, is_active=True, bot_auto_on=True, created_at=NOW, updated_at=NOW,
    )  # fmt: skip


def error(code, status=400, headers=None, **more):
    return httpx.Response(status, json={"error": {"message": "no", "code": code, **more}}, headers=headers)


class WhatsAppCase:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.breaker = CircuitBreaker("whatsapp_api", BreakerPolicy(3, 30.0), clock=self.clock)
        self.account_breakers = KeyedCircuitBreakers("whatsapp_api", BreakerPolicy(3, 30.0), clock=self.clock)
        self.requests: list[httpx.Request] = []
        self.answers: list[object] = [SENT]
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self.handle))
        self.messenger = WhatsAppMessenger(
            base_url="https://graph.test", api_version="v26.0", cipher=CIPHER, breaker=self.breaker,
            account_breakers=self.account_breakers, get_client=self.get_client, get_probe_client=self.get_client,
            clock=self.clock,
        )  # fmt: skip

    async def get_client(self):
        return self.client

    def handle(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    async def send(self, *answers, to=TO, text="Hello", key="reply-1#0", by=None):
        self.answers = list(answers)
        return await self.messenger.send_text(by or account(), to, text, outbound_key=key)

    async def raises(self, *answers, **more):
        with pytest.raises((SendError, Unavailable)) as caught:
            await self.send(*answers, **more)
        return caught.value

    def sent(self, index=0):
        return json.loads(self.requests[index].content)


@pytest.fixture
async def world():
    world = WhatsAppCase()
    yield world
    await world.client.aclose()


async def test_a_send_is_as_the_api_wants_it(world):
    assert await world.send(SENT) == "wamid.1"
    request = world.requests[0]
    assert str(request.url) == "https://graph.test/v26.0/106540352242922/messages"
    assert request.headers["authorization"] == "Bearer t0ken"
    assert world.sent() == {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": "+16505551234",
        "type": "text",
        "text": {"body": "Hello", "preview_url": False},
        "biz_opaque_callback_data": "reply-1#0",
    }


async def test_a_customer_known_only_by_user_id_is_addressed_by_it(world):
    await world.send(SENT, to=Recipient(None, "US.13491208655302741918"))
    assert world.sent()["recipient"] == "US.13491208655302741918"
    assert "to" not in world.sent()


@pytest.mark.parametrize(
    "wrong", [{"to": Recipient(None, None)}, {"text": ""}, {"text": "x" * 4097}, {"key": "k" * 513}]
)
async def test_what_could_never_be_sent_is_the_callers_mistake(world, wrong):
    with pytest.raises(ValueError, match=r"recipient|characters"):
        await world.send(SENT, **wrong)
    assert world.requests == []


async def test_read_receipt_with_and_without_typing(world):
    world.answers = [{"success": True}]
    await world.messenger.mark_read(account(), "wamid.in", typing=True)
    await world.messenger.mark_read(account(), "wamid.in", typing=False)
    read = {"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.in"}
    assert world.sent(0) == read | {"typing_indicator": {"type": "text"}}
    assert world.sent(1) == read


async def test_a_courtesy_is_tried_once(world):
    world.answers = [error(2, 503)]
    with pytest.raises(Unavailable):
        await world.messenger.mark_read(account(), "wamid.in", typing=True)
    assert len(world.requests) == 1


@pytest.mark.parametrize(
    "outcome", [error(131000, 500), error(190, 401), error(4, 429), httpx.ReadTimeout("x"), httpx.ConnectError("x")]
)
async def test_courtesies_that_fail_are_nothing_to_the_circuits(world, outcome):
    for _ in range(10):
        world.answers = [outcome]
        with pytest.raises((SendError, Unavailable)):
            await world.messenger.mark_read(account(), "wamid.in", typing=True)
    for tally in (world.breaker.tally, world.account_breakers.tally):
        assert (tally.ok, tally.failed, tally.ignored, tally.late) == (0, 0, 0, 0)
    assert world.messenger.blocked_seconds(account()) == 0


@pytest.mark.parametrize("whose", ["service", "account"])
async def test_a_courtesy_takes_no_probe_and_closes_no_circuit(world, whose):
    circuit = world.breaker if whose == "service" else world.account_breakers.get(account().phone_number_id)
    circuit.force_open(who="test", why="test")
    world.answers = [{"success": True}]
    for _ in range(5):
        await world.messenger.mark_read(account(), "wamid.in", typing=True)
    assert circuit.snapshot().state is State.OPEN
    circuit.reset()
    for _ in range(3):
        await world.raises(error(190, 401) if whose == "account" else httpx.ReadTimeout("x"))
    assert circuit.snapshot().state is State.OPEN
    world.clock.advance(30)
    world.answers = [{"success": True}]
    for _ in range(5):
        await world.messenger.mark_read(account(), "wamid.in", typing=True)
    assert circuit.snapshot().state is State.OPEN, "the probe is left to a send"
    assert await world.send(SENT) == "wamid.1"


@pytest.mark.parametrize("code", TROUBLE)
async def test_metas_own_trouble_is_retried_and_counts_against_the_service(world, code):
    assert await world.send(error(code, 500), error(code), SENT) == "wamid.1"
    assert (world.breaker.tally.failed, world.breaker.tally.ok) == (2, 1)
    assert world.account_breakers.tally.failed == 0


async def test_an_unknown_code_with_a_5xx_is_trouble_too(world):
    assert await world.send(error(777, 500), SENT) == "wamid.1"


@pytest.mark.parametrize(
    ("code", "headers", "retry_after"),
    [
        *((code, None, 60) for code in (4, 17, 32, 341, 613, 80000, 80003, 80007, 80008, 80014)),
        (130429, None, 1),
        (131056, None, None),
        (130429, {"retry-after": "9"}, 9),
        (777, None, None),
        (777, {"retry-after": "9"}, 9),
    ],
)
async def test_limits_are_the_callers_to_wait_for_and_nobodys_failure(world, code, headers, retry_after):
    exc = await world.raises(error(code, 429, headers))
    assert isinstance(exc, SendThrottled)
    assert (exc.wa_code, exc.retry_after) == (code, retry_after)
    assert len(world.requests) == 1
    assert world.breaker.tally.failed == world.account_breakers.tally.failed == 0


@pytest.mark.parametrize("code", ACCOUNT)
async def test_an_unusable_account_stops_itself_and_nobody_else(world, code):
    for _ in range(3):
        exc = await world.raises(error(code, 401))
        assert isinstance(exc, AccountRejected)
        assert exc.wa_code == code
    assert len(world.requests) == 3
    assert isinstance(await world.raises(SENT), CircuitBreakerOpenError)
    assert len(world.requests) == 3
    assert await world.send(SENT, by=account("999")) == "wamid.1"
    assert world.breaker.snapshot().state is State.CLOSED
    world.clock.advance(30)
    assert await world.send(SENT) == "wamid.1"


@pytest.mark.parametrize("code", [17, 80008, 613])
async def test_a_limit_is_one_whatever_the_http_status(world, code):
    assert isinstance(await world.raises(error(code, 400)), SendThrottled)


async def test_a_429_without_an_error_body_is_a_limit_too(world):
    exc = await world.raises(httpx.Response(429, text="<html>slow down</html>", headers={"retry-after": "7"}))
    assert isinstance(exc, SendThrottled)
    assert exc.retry_after == 7
    assert world.breaker.tally.failed == world.account_breakers.tally.failed == 0


@pytest.mark.parametrize("code", [131047, 131049, 133016])
async def test_a_429_with_a_code_that_condemns_the_message_is_no_limit(world, code):
    assert isinstance(await world.raises(error(code, 429)), SendRejected)


async def test_a_401_with_an_unknown_code_is_the_accounts_problem(world):
    exc = await world.raises(error(777, 401))
    assert isinstance(exc, AccountRejected)
    assert exc.reason is BlockReason.TOKEN_INVALID


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (190, BlockReason.TOKEN_INVALID),
        (10, BlockReason.PERMISSION_MISSING),
        (250, BlockReason.PERMISSION_MISSING),
        (33, BlockReason.NUMBER_NOT_REGISTERED),
        (368, BlockReason.POLICY_VIOLATION),
        (131031, BlockReason.ACCOUNT_LOCKED),
        (131042, BlockReason.PAYMENT_PROBLEM),
        (131048, BlockReason.MESSAGING_LIMIT),
    ],
)
async def test_a_refusal_of_the_account_says_in_words_what_is_wrong(world, code, reason):
    exc = await world.raises(error(code, 400))
    assert exc.reason is reason


async def test_a_number_that_does_not_exist_is_the_accounts_problem(world):
    exc = await world.raises(error(100, 400, error_subcode=33))
    assert isinstance(exc, AccountRejected)


@pytest.mark.parametrize("code", [*PERMANENT, 777])
@pytest.mark.parametrize("status", [400, 500])
async def test_a_message_that_can_never_be_sent_condemns_only_itself(world, code, status):
    if code == 777 and status == 500:
        return
    exc = await world.raises(error(code, status))
    assert isinstance(exc, SendRejected)
    assert exc.wa_code == code
    assert len(world.requests) == 1
    assert world.breaker.tally.failed == world.account_breakers.tally.failed == 0


@pytest.mark.parametrize(
    "outcome",
    [
        httpx.ReadTimeout("x"),
        httpx.ReadError("x"),
        httpx.WriteError("x"),
        httpx.RemoteProtocolError("x"),
        httpx.Response(502, text="<html>Bad gateway</html>"),
        httpx.Response(500),
        httpx.Response(503, json={"unexpected": True}),
        httpx.Response(200, text="not JSON"),
        httpx.Response(200, json={"messages": []}),
    ],
)
async def test_a_send_that_may_have_gone_out_is_never_repeated(world, outcome):
    assert isinstance(await world.raises(outcome), SendAmbiguous)
    assert len(world.requests) == 1


async def test_silence_counts_against_the_service(world):
    for _ in range(3):
        await world.raises(httpx.ReadTimeout("x"))
    assert world.breaker.snapshot().state is State.OPEN


@pytest.mark.parametrize(
    "outcome",
    [
        httpx.ConnectError("x"),
        httpx.ConnectTimeout("x"),
        httpx.PoolTimeout("x"),
        httpx.Response(404, text="<html>wrong host</html>"),
        httpx.Response(302, headers={"location": "https://elsewhere.test/"}),
    ],
)
async def test_a_send_that_certainly_did_not_go_out_is_repeated(world, outcome):
    assert await world.send(outcome, SENT) == "wamid.1"
    assert [request.url.host for request in world.requests] == ["graph.test"] * 2
    exc = await world.raises(outcome)
    assert isinstance(exc, Unavailable)


async def test_a_conversation_that_was_lost_between_two_attempts_is_not_sent_to(world):
    held = [True, False]

    def ensure_held() -> None:
        if not held.pop(0):
            raise Fenced("the lease may have ended")

    world.answers = [error(131000, 500)]
    with pytest.raises(Fenced):
        await world.messenger.send_text(account(), TO, "Hello", outbound_key="k", ensure_held=ensure_held)
    assert len(world.requests) == 1
    assert world.breaker.snapshot().failure_count == 1, "the lease is not the service's trouble"


async def test_trouble_then_silence_is_ambiguous(world):
    """The last attempt decides: it is the one that may have gone out."""
    assert isinstance(await world.raises(error(2, 503), httpx.ReadTimeout("x")), SendAmbiguous)
    assert len(world.requests) == 2


async def test_a_delay_named_by_meta_opens_the_circuit_for_that_long(world):
    exc = await world.raises(error(2, 503, {"retry-after": "17"}))
    assert exc.retry_after == 17
    assert world.breaker.snapshot().retry_after == 17


@pytest.mark.parametrize("stored", ["not encrypted at all", None])
async def test_a_token_we_cannot_read_is_the_accounts_problem(world, stored):
    broken = account(token="to\nken")
    if stored:
        object.__setattr__(broken, "access_token", stored)
    assert isinstance(await world.raises(SENT, by=broken), AccountRejected)
    assert world.requests == []


async def test_neither_token_nor_number_nor_text_gets_into_errors_or_logs(world, caplog):
    caplog.set_level(logging.DEBUG, logger="app")
    exc = await world.raises(error(2, 503))
    assert "Retrying app.adapters.whatsapp.WhatsAppMessenger._send in " in caplog.text
    for secret in ("t0ken", "16505551234", "Hello"):
        assert secret not in caplog.text
        assert secret not in str(exc)


class TestProbe:
    @pytest.mark.parametrize("status", [200, 400, 404])
    async def test_any_answer_of_the_api_will_do(self, world, status):
        world.answers = [httpx.Response(status)]
        assert await world.messenger.probe() == {}
        assert "authorization" not in world.requests[0].headers

    @pytest.mark.parametrize("trouble", [httpx.Response(503), httpx.ConnectError("x"), httpx.ReadTimeout("x")])
    async def test_says_what_is_wrong(self, world, trouble):
        world.answers = [trouble]
        with pytest.raises(Unavailable):
            await world.messenger.probe()
