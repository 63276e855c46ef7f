"""infra/deploy with the driver for compose, against a stand-in for Docker: which containers run, of which image."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.localhost.processes import run

SCRIPTS = Path(__file__).resolve().parents[2] / "infra" / "deploy"
STAND_IN = Path(__file__).with_name("docker_stand_in.py")


@dataclass
class Host:
    folder: Path

    @property
    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "state.json").read_text()))

    @property
    def images(self) -> list[str]:
        return list(self.state["containers"].values())

    def script(self, name: str, **more: str) -> subprocess.CompletedProcess[str]:
        env = {"PATH": f"{self.folder}:{os.environ['PATH']}", "STATE": str(self.folder / "state.json")} | more
        return run(["/bin/sh", SCRIPTS / name], env=env, timeout_seconds=60)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Three replicas of the image `one` run; the next build makes `two`."""
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_IN} "$@"\n')
    docker.chmod(0o755)
    containers = {f"a{n:063d}": "one" for n in range(3)}
    state = {
        "containers": containers, "tags": {"chorus:local": "one"}, "next": "two", "made": 0, "most": 3, "stopped": [],
    }  # fmt: skip
    (tmp_path / "state.json").write_text(json.dumps(state))
    return Host(tmp_path)


def test_an_upgrade_migrates_and_replaces_one_container_after_the_other(host: Host) -> None:
    done = host.script("upgrade.sh")
    assert done.returncode == 0, done.stderr
    assert host.images == ["two"] * 3
    assert host.state["migrated_with"] == "two"
    assert host.state["most"] == 4, "one at a time"
    assert host.state["tags"]["chorus:previous"] == "one"


def test_a_rollback_brings_the_image_before_back_and_undoes_no_migration(host: Host) -> None:
    host.script("upgrade.sh")
    done = host.script("rollback.sh")
    assert done.returncode == 0, done.stderr
    assert host.images == ["one"] * 3
    assert host.state["migrated_with"] == "two"


def test_a_new_image_that_does_not_get_ready_is_taken_away_again(host: Host) -> None:
    done = host.script("upgrade.sh", BROKEN="two", READY_SECONDS="0")
    assert done.returncode == 1
    assert "did not get ready; what ran before goes on" in done.stderr
    assert "log of" in done.stderr
    assert host.images == ["one"] * 3
    assert host.script("rollback.sh").returncode == 0
    assert host.images == ["one"] * 3


def test_the_version_before_survives_an_upgrade_that_is_tried_twice(host: Host) -> None:
    """Half-way two images run; the one that was kept is still the right one."""
    host.script("upgrade.sh")
    state = host.state
    state["containers"]["a" + "0" * 63] = "one"
    (host.folder / "state.json").write_text(json.dumps(state))
    assert host.script("upgrade.sh").returncode == 0
    assert host.state["tags"]["chorus:previous"] == "one"
