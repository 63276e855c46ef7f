"""The messenger port on a real socket: what arrives, how often, and what the caller is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest
import pytest_asyncio

from app.adapters import whatsapp
from app.adapters.whatsapp import WhatsAppMessenger
from app.core.circuit_breaker import BreakerPolicy, CircuitBreaker, CircuitBreakerOpenError, KeyedCircuitBreakers
from app.core.errors import Overloaded
from app.core.http_client import close_http_client
from app.core.secrets import TokenCipher
from app.domain.errors import (
    AccountRejected,
    InvalidInput,
    SendAmbiguous,
    SendError,
    SendRejected,
    SendThrottled,
    Unavailable,
)
from app.domain.models import TEXT_LIMIT, Account, Recipient
from app.domain.ports import Messenger
from app.sandbox.app import running_sandbox
from app.sandbox.client import SandboxClient
from app.sandbox.config import SandboxAccount, SandboxConfig
from app.sandbox.whatsapp_errors import known_codes
from tests.support.fakes import FakeClock

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOW = datetime(2026, 11, 23, tzinfo=UTC)
TO = Recipient("16505551234", None)
KEYS = TokenCipher([TokenCipher.generate_key()])


def new_account(phone_number_id: str = "106540352242922", token: str = "t0ken") -> Account:
    return Account(
        id="a1", name="Bakery", slug="bakery", phone_number_id=phone_number_id, access_token=KEYS.encrypt(token),
        verify_token="v", phone_number=None, is_active=True, bot_auto_on=True, created_at=NOW, updated_at=NOW,
    )  # fmt: skip


@dataclass
class MessengerCase:
    messenger: Messenger
    sandbox: SandboxClient
    breaker: CircuitBreaker
    account: Account

    async def send(self, text: str = "Hello", *, to: Recipient = TO, key: str = "reply-1#0") -> str:
        return await self.messenger.send_text(self.account, to, text, outbound_key=key)

    async def arrived(self, **wanted: object) -> int:
        return len(await self.sandbox.record(kind="send", **wanted))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url() -> AsyncIterator[str]:
    config = SandboxConfig(accounts=(SandboxAccount("106540352242922", "t0ken"),), accept_unknown_accounts=False)
    async with running_sandbox(config) as running:
        yield running.url
        await close_http_client()


@pytest_asyncio.fixture(loop_scope="module")
async def world(url: str) -> MessengerCase:
    sandbox = SandboxClient(url)
    await sandbox.reset()
    clock = FakeClock()
    breaker = CircuitBreaker("whatsapp_api", BreakerPolicy(1000, 30.0), clock=clock)
    messenger = WhatsAppMessenger(
        base_url=url, api_version="v26.0", cipher=KEYS, breaker=breaker, clock=clock,
        account_breakers=KeyedCircuitBreakers("whatsapp_api", BreakerPolicy(3, 30.0), clock=clock),
    )  # fmt: skip
    return MessengerCase(messenger, sandbox, breaker, new_account())


@pytest.mark.parametrize("to", [TO, Recipient(None, "US.13491208655302741918")], ids=["number", "user_id"])
async def test_a_text_arrives_once_and_its_id_comes_back(world: MessengerCase, to: Recipient) -> None:
    text = "Bonjour à vous 🥐 " + "x" * (TEXT_LIMIT - 17)
    wamid = await world.send(text, to=to, key="k" * 512)
    (entry,) = await world.sandbox.record(kind="send")
    assert (entry["wamid"], entry["text"], entry["callback_data"]) == (wamid, text, "k" * 512)
    assert entry["processed"]


async def test_read_receipt_and_typing_arrive(world: MessengerCase) -> None:
    wamid = await world.send()
    await world.messenger.mark_read(world.account, wamid, typing=True)
    await world.messenger.mark_read(world.account, wamid, typing=False)
    assert [entry["wamid"] for entry in await world.sandbox.record(kind="read")] == [wamid, wamid]


_KIND = {
    SendThrottled: {4, 17, 32, 341, 613, 80007, 80008, 130429, 131056},
    AccountRejected: {0, 3, 10, 33, 102, 190, 368, 131005, 131031, 131037, 131042, 131045, 131048, 131064, 133010},
    Unavailable: {1, 2, 131000, 131016, 131057, 133004, 2494100},
}


@pytest.mark.parametrize("code", known_codes())
async def test_every_error_of_the_table_is_told_as_its_class_and_nothing_went_out(
    world: MessengerCase, code: int
) -> None:
    await world.sandbox.add_fault("whatsapp", error=str(code))
    expected = next((kind for kind, codes in _KIND.items() if code in codes), SendRejected)
    with pytest.raises((SendError, Unavailable)) as caught:
        await world.send()
    assert type(caught.value) is expected
    assert await world.arrived() == (3 if expected is Unavailable else 1)
    assert await world.arrived(processed=True) == 0


@pytest.mark.parametrize("fault", [{"error": "131016"}, {"action": "refuse"}], ids=["error", "reset"])
async def test_passing_trouble_is_survived_or_told_as_doubt(world: MessengerCase, fault: dict[str, str]) -> None:
    """An error body proves that nothing went out. A connection reset after the request does not."""
    await world.sandbox.add_fault("whatsapp", count=1, **fault)
    if "error" in fault:
        await world.send()
    else:
        with pytest.raises(SendAmbiguous):
            await world.send()
        await world.send()
    assert await world.arrived(processed=True) == 1


@pytest.mark.parametrize("action", ["drop_before", "drop_after", "hang_before", "hang_after"])
async def test_what_may_have_gone_out_is_never_sent_twice(
    world: MessengerCase, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whatsapp, "ATTEMPT_SECONDS", 0.3)
    await world.sandbox.add_fault("whatsapp", action=action)
    with pytest.raises(SendAmbiguous):
        await world.send()
    assert await world.arrived() == 1


async def test_a_proxys_error_page_leaves_doubt(world: MessengerCase) -> None:
    await world.sandbox.add_fault("whatsapp", http_status=502)
    with pytest.raises(SendAmbiguous):
        await world.send()
    assert await world.arrived() == 1


async def test_the_pair_rate_is_told_without_a_delay_of_its_own(world: MessengerCase) -> None:
    await world.sandbox.change_behaviour(pair_burst=1)
    await world.send()
    with pytest.raises(SendThrottled) as caught:
        await world.send()
    assert (caught.value.wa_code, caught.value.retry_after) == (131056, None)


async def test_one_accounts_wrong_token_stops_only_that_account(world: MessengerCase) -> None:
    wrong = replace(world.account, access_token=KEYS.encrypt("stolen"))
    await world.sandbox.add_account("999", "stolen-elsewhere")
    other = replace(wrong, phone_number_id="999")
    for _ in range(3):
        with pytest.raises(AccountRejected):
            await world.messenger.send_text(other, TO, "Hello", outbound_key="k")
    with pytest.raises(CircuitBreakerOpenError):
        await world.messenger.send_text(other, TO, "Hello", outbound_key="k")
    assert await world.arrived(phone_number_id="999") == 3
    await world.send()


async def test_a_peer_that_is_not_there_is_unavailable(world: MessengerCase) -> None:
    gone = WhatsAppMessenger(
        base_url="http://127.0.0.1:9", api_version="v26.0", cipher=KEYS, breaker=world.breaker, clock=FakeClock()
    )
    with pytest.raises(Unavailable):
        await gone.send_text(world.account, TO, "Hello", outbound_key="k")
    with pytest.raises(Unavailable):
        await gone.probe()


async def test_probing_leaves_no_trace(world: MessengerCase) -> None:
    assert isinstance(world.messenger, WhatsAppMessenger)
    assert await world.messenger.probe() == {}
    assert await world.sandbox.record() == []


async def test_a_number_is_described_to_the_token_that_opens_it(world: MessengerCase) -> None:
    messenger = world.messenger
    assert isinstance(messenger, WhatsAppMessenger)
    described = await messenger.describe_number(world.account)
    assert (described["id"], described["quality_rating"]) == (world.account.phone_number_id, "GREEN")
    with pytest.raises(AccountRejected, match="190"):
        await messenger.describe_number(new_account(token="wrong"))
    with pytest.raises(AccountRejected, match="code 100"):
        await messenger.describe_number(new_account("999"))
    closed = replace(world.account, access_token=TokenCipher([TokenCipher.generate_key()]).encrypt("t0ken"))
    with pytest.raises(AccountRejected, match="decrypted"):
        await messenger.describe_number(closed)


async def test_a_number_that_is_asked_about_in_vain_counts_for_no_circuit(world: MessengerCase) -> None:
    messenger = world.messenger
    assert isinstance(messenger, WhatsAppMessenger)
    await world.sandbox.add_fault("whatsapp", match={"operation": "number"}, http_status=503, count=20)
    for _ in range(10):
        with pytest.raises(Unavailable):
            await messenger.describe_number(world.account)
    assert messenger.blocked_seconds(world.account) == 0


async def test_a_token_that_opens_the_number_confirms_it(world: MessengerCase) -> None:
    await world.messenger.confirm_number("106540352242922", "t0ken")
    (asked,) = await world.sandbox.record(kind="number")
    assert asked["phone_number_id"] == "106540352242922"


@pytest.mark.parametrize(
    ("number", "token", "field"),
    [
        ("106540352242922", "wrong", "access_token"), ("777", "t0ken", "phone_number_id"),
        ("777?x=106540352242922", "t0ken", "phone_number_id"),
    ],
)  # fmt: skip
async def test_a_number_that_the_token_does_not_open_is_refused(
    world: MessengerCase, number: str, token: str, field: str
) -> None:
    with pytest.raises(InvalidInput, match="WhatsApp") as caught:
        await world.messenger.confirm_number(number, token)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "fault",
    [
        {"error": "131000"}, {"error": "4"}, {"error": "80007", "retry_after": 7}, {"http_status": 500},
        {"http_status": 403}, {"http_status": 404}, {"action": "drop_after"}, {"action": "refuse"},
    ],
)  # fmt: skip
async def test_without_a_word_of_whatsapp_nothing_is_confirmed_and_no_circuit_counts_it(
    world: MessengerCase, fault: dict[str, object]
) -> None:
    await world.sandbox.add_fault("whatsapp", match={"operation": "number"}, **fault)
    for _ in range(5):
        with pytest.raises(Unavailable):
            await world.messenger.confirm_number("106540352242922", "t0ken")
    assert world.breaker.snapshot().failure_count == 0
    await world.send()


async def test_confirming_is_bounded_in_time_and_number(world: MessengerCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whatsapp, "CONFIRM_SECONDS", 0.2)
    await world.sandbox.add_fault("whatsapp", match={"operation": "number"}, action="hang_before")
    tasks = [
        asyncio.create_task(world.messenger.confirm_number("106540352242922", "t0ken"))
        for _ in range(whatsapp.MAX_CONFIRMS + 1)
    ]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    assert sum(isinstance(result, Overloaded) for result in results) == 1
