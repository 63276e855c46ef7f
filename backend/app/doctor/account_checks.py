"""The accounts, as Meta sees them: does the token work, is the number well, do its webhooks come here?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

from app.adapters.database_trouble import operator_policy
from app.core.errors import Unavailable
from app.core.secrets import SecretError, TokenCipher
from app.doctor.findings import Finding
from app.domain.account_health import Judgement, Problem, Verdict
from app.domain.models import Account
from app.services.account_health import AccountChecks
from app.services.account_service import AccountService
from app.settings import Settings
from app.wiring import open_inspector, open_store

MAX_ACCOUNTS = 20
AT_ONCE = 2
SECONDS = 9.0
"""Less than a check of the doctor may take; what was not asked by then is told."""
_STATES = {Verdict.HEALTHY: "ok", Verdict.ATTENTION: "warn", Verdict.UNHEALTHY: "bad"}


async def check_accounts(settings: Settings, stack: AsyncExitStack) -> list[Finding]:
    """Active accounts; nothing is kept. What is wrong with the database or ENCRYPTION_KEY is told by their checks."""
    try:
        cipher = TokenCipher(key.get_secret_value() for key in settings.encryption_key)
        store = await open_store(settings, policy=operator_policy())
        stack.push_async_callback(store.aclose)
        accounts = [account for account in await store.list_accounts(user_id=None) if account.is_active]
    except (SecretError, Unavailable):
        return []
    checks = AccountChecks(AccountService(store, cipher), store, open_inspector(settings, cipher))
    done: list[tuple[Account, Judgement]] = []
    left = iter(accounts[:MAX_ACCOUNTS])

    async def ask_some() -> None:
        for account in left:
            done.append((account, await checks.ask(account)))  # noqa: PERF401  kept also when the time is up

    try:
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(ask_some())
    except* (TimeoutError, Unavailable):
        pass  # the rest is told as not asked
    findings = [finding for account, judgement in done for finding in _findings(account, judgement)]
    if unasked := len(accounts) - len(done):
        detail = f"{unasked} of {len(accounts)} active accounts were not asked about"
        findings.append(Finding("accounts", "warn", detail, "chorus account check"))
    return findings


def _findings(account: Account, judgement: Judgement) -> Iterator[Finding]:
    subject = f"account {account.slug}"
    report = judgement.report
    if Problem.TOKEN_UNREADABLE in report.problems:
        return
    if judgement.verdict is None:
        yield Finding(subject, "warn", f"could not be checked: {judgement.failure}", "chorus account check, later")
        return
    said = next((part.said for part in (report.token, report.number, report.subscription) if part.said), None)
    quote = f" [{said.words} ({said.code})]" if said else ""
    if judgement.reason is None:
        yield Finding(subject, "ok", f"{report.number.display_phone_number or account.phone_number_id}, as Meta says")
        return
    others = len(report.problems) - 1
    more = f", and {others} more: chorus account check {account.slug}" if others else ""
    cause, _, mend = judgement.reason.words.partition("; ")
    yield Finding(subject, _STATES[judgement.verdict], cause + quote + more, mend or "docs/meta.md")
