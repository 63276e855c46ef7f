"""What follows an accepted send: `sent`, `delivered`, `read` (or `failed`) webhooks, delayed, batched, redelivered."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from app.core.http_client import GetClient, get_http_client
from app.sandbox.delivery import WebhookSender
from app.sandbox.faults import Call, Fault
from app.sandbox.state import SandboxState
from app.sandbox.webhooks import Business, encode_like_meta, envelope, status, statuses_change
from app.sandbox.whatsapp_errors import whatsapp_error

logger = logging.getLogger(__name__)

MAX_OUTSTANDING = 100_000
"""Statuses on their way; more are dropped and counted."""
WORKERS = 8


@dataclass(frozen=True, slots=True)
class Accepted:
    """A send that was answered with 200. `to` is digits or a business-scoped user id."""

    phone_number_id: str
    to: str
    wamid: str
    callback_data: str | None
    text: str


@dataclass(slots=True)
class _Item:
    accepted: Accepted
    name: str
    at: float
    failed_code: str | None = None
    attempts: int = 0
    delayed: bool = False

    def to_json(self) -> dict[str, object]:
        errors = [whatsapp_error(self.failed_code).status_error()] if self.failed_code else []
        sent = self.accepted
        return status(sent.wamid, self.name, recipient=sent.to, at=self.at, callback_data=sent.callback_data,
                      errors=errors)  # fmt: skip


class StatusFeed:
    """Posts to the callback urls while started. Without urls nothing is queued."""

    def __init__(self, state: SandboxState, get_client: GetClient = get_http_client) -> None:
        config = state.config
        self._state = state
        self._random = random.Random(config.seed)
        self.sender = WebhookSender(config.callback_urls, app_secret=config.app_secret, get_client=get_client)
        self._ready: asyncio.Queue[_Item] = asyncio.Queue()
        self._timers: set[asyncio.TimerHandle] = set()
        self._workers: list[asyncio.Task[None]] = []
        self._outstanding = 0
        self.counts: Counter[str] = Counter()
        """`delivered`, `failed_attempts`, `given_up`, `dropped` (too many, or no callback url), all in statuses."""

    def start(self) -> None:
        self._workers = [asyncio.create_task(self._work(), name=f"sandbox-statuses-{n}") for n in range(WORKERS)]

    async def stop(self) -> None:
        """What is still on its way is lost. Idempotent."""
        self.reset()
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._workers = []

    def reset(self) -> None:
        """Callbacks as configured, nothing on its way but what is being posted right now."""
        self.sender.callback_urls = self._state.config.callback_urls
        self.sender.app_secret = self._state.config.app_secret
        for timer in self._timers:
            timer.cancel()
        self._outstanding -= len(self._timers) + self._ready.qsize()
        self._timers.clear()
        while not self._ready.empty():
            self._ready.get_nowait()
        self.counts.clear()

    def stats(self) -> dict[str, int]:
        return {"outstanding": self._outstanding, **self.counts}

    def accepted(self, accepted: Accepted, *, failed_code: str | None = None) -> None:
        """Schedule the statuses of a send; with `failed_code` it is `sent`, then `failed`."""
        behaviour = self._state.behaviour
        if not behaviour.statuses or not self.sender.callback_urls:
            return
        delays = [behaviour.sent_after_seconds, behaviour.delivered_after_seconds, behaviour.read_after_seconds]
        names = ["sent", "failed"] if failed_code else ["sent", "delivered", "read"]
        if behaviour.shuffle:
            self._random.shuffle(delays)
        for name, delay in zip(names, delays, strict=False):
            if delay is not None:
                code = failed_code if name == "failed" else None
                self._schedule(_Item(accepted, name, time.time() + delay, code), delay)

    def _schedule(self, item: _Item, delay_seconds: float) -> None:
        if self._outstanding >= MAX_OUTSTANDING:
            self.counts["dropped"] += 1
            return
        self._outstanding += 1
        self._later(item, delay_seconds)

    def _later(self, item: _Item, delay_seconds: float) -> None:
        def ready() -> None:
            self._timers.discard(timer)
            self._ready.put_nowait(item)

        timer = asyncio.get_running_loop().call_later(delay_seconds, ready)
        self._timers.add(timer)

    async def _work(self) -> None:
        while True:
            batch = [await self._ready.get()]
            if self._state.behaviour.batch_window_seconds:
                await asyncio.sleep(self._state.behaviour.batch_window_seconds)
            while len(batch) < self._state.behaviour.batch_max and not self._ready.empty():
                batch.append(self._ready.get_nowait())
            try:
                await self._post_with_faults(batch)
            except Exception:
                logger.exception("a batch of status webhooks was lost")
                self._outstanding -= len(batch)

    async def _post_with_faults(self, batch: Sequence[_Item]) -> None:
        """Statuses that a rule singles out leave the batch and meet their fate alone."""
        untouched: list[_Item] = []
        for item in batch:
            sent = item.accepted
            call = Call("webhook", sent.phone_number_id, recipient=sent.to, text=sent.text)
            fault = None if item.delayed else self._state.faults.pick("webhook", call)
            if fault is None:
                untouched.append(item)
            else:
                await self._post_faulty(item, fault)
        if untouched:
            await self._post(untouched)

    async def _post_faulty(self, item: _Item, fault: Fault) -> None:
        delay_seconds = fault.delay_seconds()
        if fault.spec.action == "drop_before":
            self._failed(item, delay_seconds)
        elif fault.spec.action == "drop_after":
            await self._post([item], answer_lost=True)
        else:
            item.delayed = True
            self._later(item, delay_seconds)

    async def _post(self, batch: Sequence[_Item], *, answer_lost: bool = False) -> None:
        if not self.sender.callback_urls:
            self.counts["dropped"] += len(batch)
            self._outstanding -= len(batch)
            return
        raw = encode_like_meta(envelope(*self._changes(batch)))
        entry = self._state.record.open("webhook", raw)
        self.sender.timeout_seconds = self._state.behaviour.callback_timeout_seconds
        attempt = await self.sender.post(raw)
        entry.url = attempt.url
        if attempt.succeeded:
            self._state.record.process(entry)
        if attempt.status is None:
            self._state.record.close(entry)
        else:
            self._state.record.answer(entry, attempt.status)
        for item in batch:
            if attempt.succeeded and not answer_lost:
                self._delivered(item)
            else:
                self._failed(item)

    def _changes(self, batch: Sequence[_Item]) -> list[tuple[Business, dict[str, object]]]:
        by_number: dict[str, list[dict[str, object]]] = {}
        for item in batch:
            by_number.setdefault(item.accepted.phone_number_id, []).append(item.to_json())
        return [statuses_change(self._state.business(number), group) for number, group in by_number.items()]

    def _delivered(self, item: _Item) -> None:
        self.counts["delivered"] += 1
        self._outstanding -= 1
        rate = self._state.behaviour.duplicate_rate
        if rate and self._random.random() < rate and not item.attempts:
            self._schedule(_Item(item.accepted, item.name, item.at, item.failed_code, attempts=1), 0.0)

    def _failed(self, item: _Item, extra_seconds: float = 0.0) -> None:
        """Back in the queue one by one: a redelivery may be batched differently."""
        self.counts["failed_attempts"] += 1
        pauses = self._state.behaviour.redelivery_seconds
        if item.attempts < len(pauses):
            self._later(item, pauses[item.attempts] + extra_seconds)
            item.attempts += 1
        else:
            self.counts["given_up"] += 1
            self._outstanding -= 1
