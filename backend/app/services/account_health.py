"""What Meta says about the accounts: asked every ten minutes by one replica of the fleet, at once after a change, and
when a person wants to know it now."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress

from prometheus_client import Gauge

from app.core.clock import SYSTEM_CLOCK, Clock
from app.core.errors import Overloaded, Unavailable
from app.core.failure_words import in_words
from app.core.fleet.lease import Lease
from app.domain.account_health import AccountHealth, Judgement, ProblemCount, Verdict, judge
from app.domain.errors import NotFound
from app.domain.models import Account, Role, User
from app.domain.ports import AccountStore, Inspector
from app.services.account_service import AccountService

logger = logging.getLogger(__name__)

EVERY_SECONDS = 600.0
AGAIN_SECONDS = 60.0
"""After a check that could not be made."""
ROUND_SECONDS = 2.0
ROUND_ACCOUNTS = 6
AT_ONCE = 2
"""Each asks two questions side by side, and one host has five of the connections that probes use."""
LEASE_SECONDS = 90.0
"""More than a round takes while Meta is slow."""
BEAT_WITHIN_SECONDS = 180.0
CONFIRM_SECONDS = 2.0
"""Until bad news is asked for again: single refusals of a healthy token happen (Cloud API, error 190)."""
FRESH_SECONDS = 5.0
"""Checks that people ask for are made this often, at most, for one account."""
MAX_ASKED_FOR = 2
"""Such checks at once, on this replica."""

PROBLEM = Gauge("chorus_account_problem", "Active accounts by what is wrong, as Meta tells", ["verdict", "reason"])


class AccountChecks:
    """One account's check: ask, judge, confirm, keep."""

    def __init__(
        self,
        accounts: AccountService,
        store: AccountStore,
        inspector: Inspector,
        *,
        confirm_seconds: float = CONFIRM_SECONDS,
        fresh_seconds: float = FRESH_SECONDS,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._accounts = accounts
        self._store = store
        self._inspector = inspector
        self._confirm_seconds = confirm_seconds
        self._fresh_seconds = fresh_seconds
        self._clock = clock
        self._asked_for = asyncio.Semaphore(MAX_ASKED_FOR)

    async def view(self, user: User, account_id: str, *, refresh: bool = False) -> tuple[Account, AccountHealth]:
        """For members. With `refresh` Meta is asked first, unless it was a moment ago. Raises `NotFound`, `Overloaded`,
        `Unavailable` (the database; what Meta does not answer is part of the view)."""
        account = await self._accounts.authorize(user, account_id, Role.VIEWER)
        health = await self._store.account_health(account.id)
        if refresh and not self._is_fresh(health):
            if self._asked_for.locked():
                raise Overloaded("whatsapp", "as many accounts are being checked as may be; try again")
            async with self._asked_for:
                await self.check(await self._present(account))
            health = await self._store.account_health(account.id)
        return await self._present(account), health

    async def check(self, account: Account) -> Judgement:
        """Ask Meta and keep the answer. Raises `Unavailable` and `NotFound` of the database only, and `Unavailable` if
        the answer is too old to keep."""
        asked_at = self._clock.monotonic()
        judgement = await self.ask(account)
        if self._clock.monotonic() - asked_at > LEASE_SECONDS:
            # This process was stopped meanwhile, and another replica may know better.
            raise Unavailable("whatsapp", "what Meta said of the account is too old to keep")
        recorded = await self._accounts.inspected(account, judgement)
        facts = {"account": account.id, "reason": str(judgement.reason or judgement.failure or "")}
        if not recorded.current:
            logger.info("account changed while it was checked", extra={"account": account.id})
        elif judgement.verdict is None:
            logger.warning("account not checked", extra=facts)
        elif judgement.verdict is not recorded.was:
            is_bad = judgement.verdict is Verdict.UNHEALTHY
            logger.log(logging.WARNING if is_bad else logging.INFO, "account %s", judgement.verdict, extra=facts)
        return judgement

    async def ask(self, account: Account) -> Judgement:
        """What Meta says now; nothing is kept. Bad news is confirmed by a second look, unless it is known already.
        Raises `Unavailable` of the database only."""
        judgement = judge(await self._inspector.inspect(account), self._clock.now())
        if judgement.verdict is not Verdict.UNHEALTHY:
            return judgement
        if (await self._store.account_health(account.id)).reason is judgement.reason:
            return judgement
        await self._clock.sleep(self._confirm_seconds)
        return judge(await self._inspector.inspect(account), self._clock.now())

    def _is_fresh(self, health: AccountHealth) -> bool:
        tried_at = health.tried_at
        return tried_at is not None and (self._clock.now() - tried_at).total_seconds() < self._fresh_seconds

    async def _present(self, account: Account) -> Account:
        """Not from the cache: with the token and the block that it has by now."""
        return await self._store.get_account(account.id) or account


class AccountHealthRounds:
    """Every replica runs it; the one that holds the lease asks Meta, and alone shows the metric. Two at a time ask
    twice, and the newer answer stays."""

    def __init__(
        self, store: AccountStore, checks: AccountChecks, lease: Lease, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._store = store
        self._checks = checks
        self._lease = lease
        self._clock = clock

    async def run(self, beat: Callable[[], None]) -> None:
        """For ever. While Redis, which keeps the lease, is away nothing is asked."""
        try:
            while True:
                beat()
                try:
                    if await self._lease.hold():
                        if await self.round():
                            continue  # there are more
                    else:
                        show(())
                except Unavailable as exc:
                    logger.warning("account health has to wait", extra={"reason": in_words(exc)})
                await self._clock.sleep(ROUND_SECONDS)
        finally:
            show(())
            with suppress(Unavailable):  # it ends by itself
                await self._lease.release()

    async def round(self) -> bool:
        """Check what is due. Returns whether there may be more, and what was tried went well. Raises `Unavailable`."""
        found = await self._store.account_health_round(
            limit=ROUND_ACCOUNTS, every_seconds=EVERY_SECONDS, again_seconds=AGAIN_SECONDS
        )
        show(found.problems)
        left, failed = iter(found.due), 0

        async def check_some() -> None:
            nonlocal failed
            for account in left:
                failed += not await self._check(account)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(check_some())
        return len(found.due) == ROUND_ACCOUNTS and not failed

    async def _check(self, account: Account) -> bool:
        """One that fails costs the others nothing. Returns whether its answer was kept."""
        try:
            await self._checks.check(account)
        except (Unavailable, NotFound) as exc:
            logger.warning("account not checked", extra={"account": account.id, "reason": in_words(exc)})
        except Exception as exc:  # a bug with one account must not stop the others
            logger.error("the check of an account failed", exc_info=exc, extra={"account": account.id})
        else:
            return True
        return False


def show(problems: Sequence[ProblemCount]) -> None:
    """As the metric, in place of what it showed before."""
    PROBLEM.clear()
    for problem in problems:
        PROBLEM.labels(problem.verdict, problem.reason).set(problem.count)
