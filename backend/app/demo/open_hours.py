"""The demo after its scenes: customers keep writing, what breaks is told, and what was killed is started again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import cycle

from app.demo.narrator import LogTail, Narrator
from app.localhost.fleet import LocalFleet, Served
from app.localhost.processes import ProcessError
from app.localhost.server import Server
from app.localhost.servers import EmbeddedServerError
from app.sandbox.client import SandboxClient
from app.sandbox.customers import Customer
from app.sandbox.delivery import Undelivered, WebhookSender
from app.sandbox.webhooks import Business

ASK_SECONDS = 1.0
LOOK_SECONDS = 0.3
RESTART_SECONDS = 10.0
"""What was killed is started again after this long: long enough to watch the take-over."""
PATIENCE_SECONDS = 110.0
"""A customer waits this long before they write again."""
CUSTOMERS = ("Amina", "Ben", "Chloé", "David", "Elif", "Farid", "Gina", "Hugo", "Inès", "Jonas", "Karim", "Lucie")
QUESTIONS = (
    "What are your opening hours on Sunday?",
    "How much is the strawberry cake?",
    "Where are you?",
    "Do you deliver in Lyon 4?",
    "Do you have vegan pastries?",
    "Can I pay with meal vouchers?",
    "When is the sourdough warm?",
)

Tell = Callable[[str], None]


class OpenHours:
    """Until it is cancelled. `tell` prints one line."""

    def __init__(
        self, fleet: LocalFleet, servers: Sequence[Server], sandbox: SandboxClient, business: Business, *, tell: Tell
    ) -> None:
        self._fleet = fleet
        self._servers = servers
        self._sandbox = sandbox
        self._business = business
        self._tell = tell
        self._narrator = Narrator()
        self._faults: dict[int, bool] = {}

    async def run(self) -> None:
        """Raises what a loop of ours raises: a bug."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._customers(group))
            group.create_task(self._narrate())
            group.create_task(self._watch_faults())
            processes: list[Served | Server] = [*self._fleet.replicas, *self._servers]
            for process in processes:
                group.create_task(self._keep_up(process))

    # -- customers

    async def _customers(self, group: asyncio.TaskGroup) -> None:
        """One question a second, in turn, from the customers who wait for no answer."""
        sender = WebhookSender(self._fleet.webhook_urls, app_secret=self._fleet.keys.app_secret, timeout_seconds=3)
        run = int(time.time()) % 1_000_000
        cast = [
            Customer(sender, f"337{run:06d}{n:02d}", name, business=self._business, sandbox=self._sandbox)
            for n, name in enumerate(CUSTOMERS)
        ]
        questions = cycle(QUESTIONS)
        asking: dict[str, asyncio.Task[None]] = {}
        for customer in cycle(cast):
            name = str(customer.person.name)
            if name not in asking or asking[name].done():
                asking[name] = group.create_task(self._ask(customer, next(questions)))
            await asyncio.sleep(ASK_SECONDS)

    async def _ask(self, customer: Customer, question: str) -> None:
        name = str(customer.person.name)
        try:
            message_id = await customer.say(question)
            self._tell(f"{name:>8}  {question}")
            replies = await customer.wait_for_reply(timeout_seconds=PATIENCE_SECONDS)
        except Undelivered:
            self._tell(f"{name:>8}  (no replica accepted the question; Meta would deliver it again for 7 days)")
            return
        except TimeoutError:
            self._tell(f"{name:>8}  (no answer within {PATIENCE_SECONDS:g} s)")
            return
        await asyncio.sleep(LOOK_SECONDS)  # the log that names the worker is read that often
        first = replies[0].text.splitlines()[0]
        worker = self._narrator.worker_of(message_id)
        self._tell(f"{'bakery':>8}  to {name}: {first}   [{replies[0].after_seconds * 1000:.0f} ms, {worker}]")

    # -- what happens

    async def _narrate(self) -> None:
        tails = {replica.name: LogTail(replica.log_file) for replica in self._fleet.replicas}
        while True:
            for name, tail in tails.items():
                for entry in await asyncio.to_thread(tail.entries):
                    for sentence in self._narrator.sentences(name, entry):
                        self._event(sentence)
            await asyncio.sleep(LOOK_SECONDS)

    async def _watch_faults(self) -> None:
        while True:
            for fault in await self._sandbox.list_faults():
                over = bool(fault["is_over"])
                before = self._faults.get(fault["id"])
                self._faults[fault["id"]] = over
                if before is None and not over:
                    self._event(f"a fault begins: {_words(fault)}")
                elif before is False and over:
                    self._event(f"the fault is over: {_words(fault)}, {fault['fired']} requests were hit")
            await asyncio.sleep(LOOK_SECONDS)

    async def _keep_up(self, process: Served | Server) -> None:
        """Tell that it died, and start it again."""
        is_replica = isinstance(process, Served)
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if process.running:
                continue
            told = f"{process.name} has ended"
            if is_replica:
                told += "; its conversations come to the others when its lease ends"
            self._event(f"{told}; it is started again in {RESTART_SECONDS:g} s")
            await asyncio.sleep(RESTART_SECONDS)
            try:
                await asyncio.to_thread(process.start)
            except (ProcessError, EmbeddedServerError) as exc:
                self._event(f"{process.name} does not start: {exc}")
            else:
                self._event(f"{process.name} is back" + (f", pid {process.pid}" if isinstance(process, Served) else ""))

    def _event(self, sentence: str) -> None:
        self._tell(f"{'***':>8}  {sentence}")


def _words(fault: dict[str, object]) -> str:
    what = {
        key: value
        for key, value in fault.items()
        if key not in {"id", "target", "matched", "fired", "is_over", "for_seconds", "count"}
    }
    limits = [f"for {fault['for_seconds']:g} s"] if "for_seconds" in fault else []
    limits += [f"{fault['count']} times"] if "count" in fault else []
    told = ", ".join([f"{key} {value}" for key, value in what.items()] + limits)
    return f"{fault['target']}: {told}"
