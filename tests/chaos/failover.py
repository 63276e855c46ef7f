"""Postgres fails over to a copy that is some seconds behind: what was committed in them is gone, the queue has it."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from app.localhost.processes import run
from app.localhost.servers import Postgres

from .outages import Stream
from .scenarios import QUIET_SECONDS, RECOVERY_SECONDS, Broken, Stage
from .traffic import Message
from .world import LOOK_SECONDS, ChaosWorld

BEHIND_SECONDS = 5.0
LOST_NAME = "The Orchard that was never committed"
COPY_SECONDS = 60.0


async def database_loses_seconds(world: ChaosWorld) -> None:
    """What was lost is queued again, or a person is called, within ten seconds: no reply waits for ever, none goes out
    twice, and no profile is served that the database does not know."""
    stage, business = Stage(world), world.businesses[0]
    before = (await world.sandbox.summary())["last_seq"]
    async with Stream(stage).flowing():
        await world.sandbox.wait(5, kind="send", processed="true", after=before)
        async with _copy_from_now(world.servers.postgres) as fail_over:
            await world.change_profile(business, business_name=LOST_NAME)
            await asyncio.sleep(BEHIND_SECONDS)  # time itself: what comes meanwhile is what will be lost
            await asyncio.to_thread(fail_over)
            back = time.monotonic()
    while left := await _left_alone(world, stage.messages):
        if time.monotonic() - back > RECOVERY_SECONDS:
            raise Broken(f"{RECOVERY_SECONDS:g} s after the fail-over {len(left)} are left alone: {left[:3]}")
        await asyncio.sleep(LOOK_SECONDS)
    await _serves_what_is_stored(world, stage, since=back)
    await world.until_quiet(QUIET_SECONDS)
    sends = await _sends(world)
    if twice := [message.id for message in stage.messages if sends.count(message.person.wa_id) > 1]:
        raise Broken(f"{len(twice)} customers were answered twice: {twice[:3]}")


async def _left_alone(world: ChaosWorld, messages: Sequence[Message]) -> list[str]:
    """Customers without an answer, and replies under way, for whom nobody was called."""
    called = {
        row["wa_id"]
        for row in await world.rows(
            "select k.wa_id from conversations c join contacts k on k.id = c.contact_id where c.needs_human"
        )
    }
    answered = set(await _sends(world))
    silent = [m.id for m in messages if m.person.wa_id not in answered | called]
    unfinished = await world.rows(
        "select r.reply_key, r.state, k.wa_id from replies r join conversations c on c.id = r.conversation_id"
        " join contacts k on k.id = c.contact_id where r.state in ('pending', 'sending')"
    )
    return silent + [f"{row['reply_key']} {row['state']}" for row in unfinished if row["wa_id"] not in called]


async def _sends(world: ChaosWorld) -> list[str | None]:
    return [str(send["to"]) for send in await world.sandbox.record(kind="send", processed="true")]


async def _serves_what_is_stored(world: ChaosWorld, stage: Stage, *, since: float) -> None:
    """Each replica has forgotten the profile that was lost."""
    for replica in range(len(world.fleet.replicas)):
        while True:
            (message,) = stage.conversation(1)
            before = (await world.sandbox.summary())["last_seq"]
            with stage.only(replica):
                await stage.post(message, replica=replica)
                await stage.sends(1, message)
            asked = await world.sandbox.record(kind="generate", after=before)
            if not any(LOST_NAME in str(entry["body"]) for entry in asked):
                break
            if time.monotonic() - since > RECOVERY_SECONDS:
                raise Broken(f"{RECOVERY_SECONDS:g} s after the fail-over the profile of a lost history is served")


@asynccontextmanager
async def _copy_from_now(postgres: Postgres) -> AsyncIterator[Callable[[], None]]:
    """A copy of the server's data; what is yielded puts it in the server's place, on a new timeline."""
    data = postgres.location.server_folder("postgres") / "data"
    copy = data.with_name("copy")

    def take() -> None:
        postgres.pause()
        try:
            _copied(data, copy)
        finally:
            postgres.resume()

    def fail_over() -> None:
        postgres.kill()
        shutil.rmtree(data)
        copy.rename(data)
        with (data / "postgresql.auto.conf").open("a", encoding="utf-8") as settings:
            settings.write("restore_command = 'false'\n")
        _copied(data / "PG_VERSION", data / "recovery.signal")  # ends its recovery with a timeline of its own
        postgres.start()

    await asyncio.to_thread(take)
    try:
        yield fail_over
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _copied(source: Path, target: Path) -> None:
    """With owners and modes: the server may run as another account."""
    done = run(["cp", "-a", source, target], timeout_seconds=COPY_SECONDS)
    assert done.returncode == 0, done.stderr
