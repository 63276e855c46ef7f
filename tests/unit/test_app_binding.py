"""What it costs to ask which numbers of a delivery an app may speak for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from app.domain.errors import Unavailable
from app.domain.models import Account
from app.domain.webhook import Kind, WebhookEvent, parse_webhook
from app.sandbox import webhooks as wa
from app.services import app_binding
from app.services.account_service import AccountService
from app.services.app_binding import AT_ONCE, MAX_NUMBERS, AppBinding


class Accounts(AccountService):
    """The number `foreign` belongs to another app; the others have no account."""

    def __init__(self, *, fails: Exception | None = None, hangs: bool = False) -> None:
        self.asked: list[str] = []
        self.under_way = self.most = 0
        self._fails, self._hangs = fails, hangs

    async def by_phone_number_id(self, phone_number_id: str) -> Account | None:
        self.asked.append(phone_number_id)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await (asyncio.Event().wait() if self._hangs else asyncio.sleep(0))
            if self._fails is not None:
                raise self._fails
        finally:
            self.under_way -= 1
        return an_account(phone_number_id) if phone_number_id == "foreign" else None


def an_account(number: str) -> Account:
    now = datetime.now(UTC)
    return Account(
        id="a", name="n", slug="s", phone_number_id=number, access_token="t", verify_token="v", app_id="22222",
        phone_number=None, is_active=True, bot_auto_on=True, created_at=now, updated_at=now,
    )  # fmt: skip


def updates_about(*numbers: str) -> Sequence[WebhookEvent]:
    person = wa.Person("33612345678", "Amina")
    changes = [wa.messages_change(wa.Business(number), [wa.text(person, "hello")], [person]) for number in numbers]
    return parse_webhook(wa.envelope(*changes))


async def permitted(accounts: Accounts, *numbers: str) -> list[tuple[Kind, str]]:
    updates = await AppBinding(accounts, "11111").permitted(updates_about(*numbers), "11111")
    return [(update.kind, update.phone_number_id) for update in updates]


async def test_a_delivery_about_thousands_of_numbers_looks_up_a_hundred_and_ten_at_a_time() -> None:
    accounts = Accounts()
    numbers = [str(n) for n in range(3000)]
    kinds = await permitted(accounts, *numbers, *numbers)
    assert sorted(accounts.asked, key=int) == numbers[:MAX_NUMBERS]
    assert (MAX_NUMBERS, accounts.most) == (100, AT_ONCE)
    expected = [Kind.MESSAGE] * MAX_NUMBERS + [Kind.UNKNOWN] * (len(numbers) - MAX_NUMBERS)
    assert kinds == list(zip(expected * 2, numbers * 2, strict=True))


async def test_behind_a_hundred_numbers_an_app_speaks_for_none_that_is_not_its_own() -> None:
    many = [str(n) for n in range(MAX_NUMBERS)]
    assert (await permitted(Accounts(), *many, "foreign"))[-1] == (Kind.UNKNOWN, "foreign")
    assert (Kind.MESSAGE, "foreign") not in await permitted(Accounts(), "foreign", *many)


async def test_what_was_not_looked_up_keeps_its_content_and_one_id_for_every_delivery_of_it() -> None:
    updates = updates_about(*(str(n) for n in range(MAX_NUMBERS + 1)))
    binding = AppBinding(Accounts(), "11111")
    (first, again) = [(await binding.permitted(updates, "11111"))[-1] for _ in range(2)]
    assert first.id == again.id
    assert first.body["shape"]["body"] == updates[-1].body
    assert first.body["reason"] == "beyond the 100 numbers of a delivery that are looked up"


@pytest.mark.parametrize("count", [1, 30])
async def test_when_the_accounts_cannot_be_known_the_delivery_is_refused_as_unavailable(count: int) -> None:
    accounts = Accounts(fails=Unavailable("database"))
    with pytest.raises(Unavailable):
        await permitted(accounts, *(str(n) for n in range(count)))
    assert accounts.under_way == 0


async def test_many_numbers_have_a_deadline_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_binding, "LOOK_UP_SECONDS", 0.05)
    accounts = Accounts(hangs=True)
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable, match="in time"):
            await permitted(accounts, *(str(n) for n in range(30)))
    assert accounts.under_way == 0
