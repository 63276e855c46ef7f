"""`chorus demo`: real servers, three replicas, a bakery and its customers, on this machine and from nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from app.core.http_client import close_http_client, request
from app.core.logging import trace_of
from app.core.secrets import TokenCipher
from app.demo.bakery import BAKERY
from app.demo.open_hours import OpenHours
from app.demo.scenario import Scene, play
from app.localhost.fleet import Keys, LocalFleet
from app.localhost.processes import ProcessError
from app.localhost.servers import EmbeddedServerError, EmbeddedServers, start_servers
from app.sandbox.client import SandboxClient
from app.sandbox.webhooks import Business

T = TypeVar("T")

DATA_FOLDER = Path(".data") / "demo"
REPLICAS = 3
FIRST_PORT = 8000
SANDBOX_PORT = 9000
LEASE_SECONDS = "5"
"""Shorter than the default, so that a killed replica's conversations are taken over while one is watching."""
THINKING_SECONDS = 2.0
"""Of the stand-in for Gemini once the scenes are over: there is something to take over."""
LOOK_SECONDS = 20.0
"""More than a replica takes to find out whether the model answers."""
LOOK_AGAIN_SECONDS = 0.1
DEMO_NUMBER = Business("106540352242922", "33478000000")
DEMO_TOKEN = "demo-access-token"
REAL_GEMINI = "https://generativelanguage.googleapis.com"


class Interrupted(BaseException):
    """As `KeyboardInterrupt`, and like it no `Exception`: it may come out of any line of the main thread, and what
    tidies up after an error there (`Thread.start`) must not take it for one."""


def run_demo(*, once: bool) -> int:
    """Returns the exit code: 0 if every message got exactly the reply it should."""
    with _until_signal():
        try:
            return _run(once=once)
        except Interrupted:
            _say("stopped")
            return 0 if not once else 130
        except (EmbeddedServerError, ProcessError) as exc:
            print(f"chorus demo: {exc}", file=sys.stderr)
            return 1


def _run(*, once: bool) -> int:
    folder = DATA_FOLDER.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    _say("starting Valkey and PostgreSQL …")
    with start_servers(folder / "servers", durable=True) as servers:
        keys = Keys.kept_in(folder / "keys.json", TokenCipher.generate_key())
        fleet = LocalFleet(
            folder,
            redis_url=servers.redis_url,
            database_url=servers.database_url,
            keys=keys,
            replicas=REPLICAS,
            settings=_model_settings() | {"LEASE_SECONDS": LEASE_SECONDS},
            first_port=FIRST_PORT,
            sandbox_port=SANDBOX_PORT,
        )
        _say(f"starting the sandbox and {REPLICAS} replicas …")
        fleet.start()
        try:
            if trouble := _in_a_loop(_trouble_with_the_model(fleet)):
                print(f"chorus demo: {trouble}", file=sys.stderr)
                return 1
            scenes = _in_a_loop(_open_the_bakery(fleet, check_texts=not os.environ.get("GEMINI_API_KEY")))
            wrong = [scene for scene in scenes if not scene.is_right]
            _report(scenes, fleet)
            if once:
                return 1 if wrong else 0
            _describe(fleet, servers)
            _in_a_loop(_stay_open(fleet, servers))
            return 1 if wrong else 0
        finally:
            _say("stopping …")
            fleet.stop()


def _model_settings() -> dict[str, str]:
    """With a key of one's own the replies come from the real Gemini."""
    key = os.environ.get("GEMINI_API_KEY")
    settings = {"GEMINI_API_KEY": key, "GEMINI_BASE_URL": os.environ.get("GEMINI_BASE_URL", REAL_GEMINI)} if key else {}
    model = os.environ.get("GEMINI_MODEL")
    return settings | ({"GEMINI_MODEL": model} if model else {})


async def _open_the_bakery(fleet: LocalFleet, *, check_texts: bool) -> list[Scene]:
    """Create the account and its profile on one replica each, then let the customers in."""
    try:
        sandbox = SandboxClient(fleet.sandbox.url)
        await sandbox.add_account(DEMO_NUMBER.phone_number_id, DEMO_TOKEN)
        await sandbox.set_callbacks(fleet.webhook_urls, app_secret=fleet.keys.app_secret)
        account_id = await _account_id(fleet)
        await _api(fleet, 1, "PUT", f"/bot/profile?account_id={account_id}", BAKERY)
        return await play(fleet, sandbox, DEMO_NUMBER, check_texts=check_texts)
    finally:
        await close_http_client()


async def _account_id(fleet: LocalFleet) -> str:
    """A second run finds the account of the first."""
    accounts = await _api(fleet, 0, "GET", "/accounts")
    for account in accounts:
        if account["phone_number_id"] == DEMO_NUMBER.phone_number_id:
            return str(account["id"])
    created = await _api(
        fleet,
        0,
        "POST",
        "/accounts",
        {
            "name": BAKERY["business_name"],
            "slug": "maison-levain",
            "phone_number_id": DEMO_NUMBER.phone_number_id,
            "phone_number": DEMO_NUMBER.display_phone_number,
            "access_token": DEMO_TOKEN,
            "verify_token": fleet.keys.verify_token,
        },
    )
    return str(created["id"])


async def _api(fleet: LocalFleet, replica: int, method: str, path: str, payload: Any = None) -> Any:
    response = await request(
        method,
        fleet.replicas[replica].url + path,
        headers={"Authorization": f"Bearer {fleet.keys.admin}"},
        payload=payload,
        timeout_seconds=10,
    )
    if response.status >= 400:
        raise ProcessError(f"{method} {path} answered {response.status}: {response.body.decode()}")
    return response.json()


def _report(scenes: list[Scene], fleet: LocalFleet) -> None:
    """The conversation, and who did what: from the replicas' own logs."""
    handled = _who_handled(fleet)
    print()
    for scene in scenes:
        for said in scene.said:
            print(f"  {scene.customer:>8}  {said.text}   [{said.how} → {said.accepted_by}]")
        for reply in scene.replies:
            worker = next((handled[name] for said in scene.said if (name := trace_of(said.id)) in handled), "?")
            first, *more = reply.text.splitlines()
            print(f"  {'bakery':>8}  {first}   [{reply.after_seconds * 1000:.0f} ms, {worker}]")
            for line in more:
                print(f"  {'':>8}  {line}")
        if not scene.replies:
            print(f"  {'':>8}  (no reply)")
        for problem in scene.problems:
            print(f"  {'WRONG':>8}  {problem}")
        print()
    wrong = sum(not scene.is_right for scene in scenes)
    verdict = "every message got exactly the reply it should" if not wrong else f"{wrong} scenes went wrong"
    _say(f"{len(scenes)} scenes, {sum(len(s.said) for s in scenes)} messages: {verdict}")


def _who_handled(fleet: LocalFleet) -> dict[str, str]:
    """Trace of a message -> replica, from the canonical log lines."""
    found: dict[str, str] = {}
    for replica in fleet.replicas:
        for line in replica.log_file.read_text(errors="replace").splitlines():
            if '"handled"' not in line:
                continue
            entry = json.loads(line)
            if entry.get("outcome") == "replied":
                found |= dict.fromkeys(entry["messages"], replica.name)
    return found


async def _trouble_with_the_model(fleet: LocalFleet) -> str | None:
    """Why no answer can come, in one sentence, or `None`: a wrong key would fail every scene for the same reason."""
    try:
        gemini = await _gemini(fleet)
        for _ in range(round(LOOK_SECONDS / LOOK_AGAIN_SECONDS)):
            if gemini["status"] != "unknown":
                break
            await asyncio.sleep(LOOK_AGAIN_SECONDS)
            gemini = await _gemini(fleet)
    finally:
        await close_http_client()
    if gemini["status"] != "error":
        return None
    advice = "check GEMINI_API_KEY and GEMINI_MODEL, or unset GEMINI_API_KEY: then the sandbox answers"
    return f"Gemini cannot be used ({gemini.get('error', 'no reason given')}); {advice}"


async def _gemini(fleet: LocalFleet) -> dict[str, Any]:
    """As the first replica sees it: unknown while another one, which looks for all, has not said what it found."""
    return dict((await _api(fleet, 0, "GET", "/health"))["dependencies"]["gemini"])


async def _stay_open(fleet: LocalFleet, servers: EmbeddedServers) -> None:
    """Customers keep writing, until a signal comes."""
    sandbox = SandboxClient(fleet.sandbox.url)
    try:
        await sandbox.change_behaviour(model_seconds=THINKING_SECONDS)
        hours = OpenHours(fleet, (servers.valkey, servers.postgres), sandbox, DEMO_NUMBER, tell=_tell)
        await hours.run()
    finally:
        await close_http_client()


def _tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def _describe(fleet: LocalFleet, servers: EmbeddedServers) -> None:
    print(f"\n  {'console':10} {fleet.replicas[0].url}/console#token={fleet.keys.admin}   (signs you in)\n")
    for replica in fleet.replicas:
        print(f"  {replica.name:10} {replica.url}   pid {replica.pid}   (/health, /docs, /metrics)")
    print(f"  {'sandbox':10} {fleet.sandbox.url}   (POST /sandbox/faults breaks things, GET /sandbox/record shows all)")
    print(f"  {'Valkey':10} {servers.redis_url}")
    print(f"  {'key':10} Authorization: Bearer {fleet.keys.admin}")
    say = f"chorus sandbox say --url {fleet.sandbox.url}"
    print(f"  {'write':10} {say} 'Do you have vegan pastries?'   (as a customer; prints the answer)")
    print("\n  Customers keep writing. What you break is told below (***). Ctrl-C ends it.\n", flush=True)


@contextmanager
def _until_signal() -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the demo in order, whatever it is doing; more of them change nothing."""
    stopped = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            raise Interrupted

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_a_loop(work: Coroutine[object, object, T]) -> T:
    """`asyncio.run`, but a signal cancels `work` and then raises `Interrupted`: an exception out of a signal handler
    could end up in any task, or be swallowed by the loop."""

    async def interruptible() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            loop.add_signal_handler(number, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            raise Interrupted from None
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)

    return asyncio.run(interruptible())


def _say(text: str) -> None:
    print(f"chorus demo: {text}", flush=True)
