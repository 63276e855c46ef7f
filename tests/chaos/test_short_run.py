"""The short run of the chaos schedule: three replicas, real servers, every promise checked from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from .logs import LogWatch
from .run import Plan, run
from .world import running_world


@pytest.mark.timeout(400)
async def test_nothing_is_lost_sent_twice_or_told_to_a_log_while_everything_is_killed_frozen_and_restarted(
    request: pytest.FixtureRequest,
) -> None:
    """The logs are searched as part of the verdict, and here they say all that they ever say."""
    async with running_world(businesses=3, settings={"LOG_LEVEL": "DEBUG"}) as world:
        world.patience = request.config.getoption("--patience")
        report = await run(world, Plan(messages=400, conversations=40, seconds=22, seed=5, full=False))
        assert '"level":"debug"' in world.logs.text
    assert report.verdict.problems == [], report.table()


@pytest.mark.parametrize(
    "leak",
    ["token chaos-access-token", "sent to 33612345678", "wamid.0033612345678x", "tart Kumquat", "#c7m1", "Customer 12"],
)
def test_the_search_finds_what_must_never_be_written(tmp_path: Path, leak: str) -> None:
    log, watch = tmp_path / "replica.log", LogWatch()
    lines = [f'{{"level":"info","event":"{text}"}}' for text in ("handled 123456789012345", leak, "webhook")]
    log.write_text("\n".join(lines), encoding="utf-8")
    watch.look(log)
    assert watch.secrets_in(["chaos-access-token", ""], {"33612345678"}) == [lines[1]]
