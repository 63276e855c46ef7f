"""People who write, change numbers and take over numbers that others gave up, in any order of delivery: never two
conversations of one person, never one of two."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import asyncpg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.adapters.postgres_store import PostgresStore
from app.domain.models import Account
from app.domain.webhook import parse_webhook, to_inbound
from app.sandbox import webhooks as wa

STEP = timedelta(seconds=10)
PEOPLE = 3
_serial = count(1)


@dataclass
class Human:
    name: str
    number: str
    user_id: str | None

    def as_person(self, ids: str) -> wa.Person:
        """With one id or with both; without a user id always by number."""
        by_user = self.user_id is not None and ids != "number"
        return wa.Person(None if by_user and ids == "user" else self.number, None, self.user_id if by_user else None)


class IdentityTables:
    """The store and a look into its tables, for steps that are not coroutines."""

    def __init__(self, url: str, runner: asyncio.Runner) -> None:
        self.run = runner.run
        self.store = PostgresStore(url)
        self.sql: asyncpg.Connection = runner.run(asyncpg.connect(url, timeout=5))

    def close(self) -> None:
        self.run(self.sql.close())
        self.run(self.store.aclose())

    def new_account(self, name: str) -> Account:
        return self.run(
            self.store.create_account(name=name, slug=name, phone_number_id=name, access_token="c", verify_token=name)
        )

    def record(self, account: Account, message: dict[str, Any], at: datetime) -> None:
        change = wa.messages_change(wa.Business(account.phone_number_id), [message])
        (event,) = parse_webhook(wa.envelope(change))
        body = event.body
        self.run(
            self.store.record_inbound(
                account.id,
                wa_id=body["wa_id"],
                user_id=body["user_id"],
                name=None,
                messages=[to_inbound(body["message"], at)],
            )
        )

    def authors(self, account: Account) -> dict[str, set[str]]:
        """The writers' names, which are the texts, by conversation."""
        query = "select conversation_id::text as id, text from messages where account_id = $1 and type = 'text'"
        found: dict[str, set[str]] = defaultdict(set)
        for row in self.run(self.sql.fetch(query, account.id)):
            found[row["id"]].add(row["text"])
        return found


class Identities(RuleBasedStateMachine):
    """Subclass with a `world`."""

    world: IdentityTables

    @initialize(with_user_ids=st.lists(st.booleans(), min_size=PEOPLE, max_size=PEOPLE))
    def begin(self, with_user_ids: list[bool]) -> None:
        self.account = self.world.new_account(f"identities-{next(_serial)}")
        self.now = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=12)
        self.numbers = count(34_600_000_001)
        self.people = [
            Human(str(n), str(next(self.numbers)), f"ES.{n}" if has_id else None)
            for n, has_id in enumerate(with_user_ids)
        ]
        self.free: list[str] = []
        self.waiting: list[tuple[dict[str, Any], str | None]] = []
        """Not yet delivered, and the number that a report among it sets free."""

    @rule(who=st.integers(0, PEOPLE - 1), ids=st.sampled_from(["number", "user", "both"]), late=st.booleans())
    def writes(self, who: int, ids: str, *, late: bool) -> None:
        human = self.people[who]
        self._send(wa.text(human.as_person(ids), human.name, at=self._tick()), late=late)

    @rule(
        who=st.integers(0, PEOPLE - 1), used=st.booleans(), names_user=st.booleans(), late=st.booleans(),
        repeated=st.booleans(),
    )  # fmt: skip
    def changes_number(self, who: int, *, used: bool, names_user: bool, late: bool, repeated: bool) -> None:
        human = self.people[who]
        before = human.number
        human.number = self.free.pop() if used and self.free else str(next(self.numbers))
        teller = wa.Person(before, human.name, human.user_id if names_user else None)
        note = wa.number_changed(teller, human.number, at=self._tick())
        self._send(note, frees=before, late=late)
        if repeated:
            self._send(note, late=True)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def something_late_arrives(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.waiting) - 1))
        self._deliver(*self.waiting.pop(index))

    @invariant()
    def no_conversation_is_of_two_people(self) -> None:
        for conversation, names in self.world.authors(self.account).items():
            assert len(names) == 1, f"{conversation} has messages of {names}"

    def teardown(self) -> None:
        if not hasattr(self, "account"):
            return
        while self.waiting:
            self._deliver(*self.waiting.pop(0))
        for human in self.people:
            self._send(wa.text(human.as_person("both"), human.name, at=self._tick()), late=False)
        self.no_conversation_is_of_two_people()
        of_person: dict[str, set[str]] = defaultdict(set)
        for conversation, names in self.world.authors(self.account).items():
            for name in names:
                of_person[name].add(conversation)
        for name, conversations in of_person.items():
            assert len(conversations) == 1, f"{name} has {len(conversations)} conversations"

    def _tick(self) -> float:
        self.now += STEP
        return self.now.timestamp()

    def _send(self, message: dict[str, Any], *, late: bool, frees: str | None = None) -> None:
        if late:
            self.waiting.append((message, frees))
        else:
            self._deliver(message, frees)

    def _deliver(self, message: dict[str, Any], frees: str | None) -> None:
        self.world.record(self.account, message, self.now)
        if frees is not None:
            # A number has no new owner before WhatsApp has told that its owner left it.
            self.free.append(frees)
