"""What an installation is made of: every lock file is audited, every package's licence is known."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text(encoding="utf-8"))


def _licences() -> ModuleType:
    spec = importlib.util.spec_from_file_location("licences", ROOT / "infra" / "licences.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_lock_file_is_audited_each_day_and_at_each_push() -> None:
    audited = set(WORKFLOW["jobs"]["audit"]["strategy"]["matrix"]["lock"])
    assert audited == {path.name for path in ROOT.glob("*.lock")}
    assert any("pip-audit" in step.get("run", "") for step in WORKFLOW["jobs"]["audit"]["steps"])
    triggers = WORKFLOW[True]  # YAML 1.1 reads `on` as true
    assert {"push", "schedule"} <= set(triggers)


def test_the_workflow_may_only_read() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in WORKFLOW["jobs"].values())
    assert all("timeout-minutes" in job for job in WORKFLOW["jobs"].values())


def test_every_package_of_an_installation_has_a_licence_that_is_allowed_and_listed() -> None:
    licences = _licences()
    found: dict[str, str] = licences.table()
    assert len(found) > 40
    assert {name: licence for name, licence in found.items() if not licences.ALLOWED.search(licence)} == {}
    listed = (ROOT / "docs/licences.md").read_text(encoding="utf-8")
    missing = [name for name, licence in found.items() if f"| {name} | {licence} |" not in listed]
    assert not missing, "make licences"
    rows = {line.split(" | ")[0].lstrip("| ") for line in listed.splitlines() if line.startswith("| ")}
    assert rows - {"package"} <= set(licences.pinned()), "make licences"
