"""What an installation is made of: every lock file is audited, every package's licence is known, every Python and every
version of a dependency that the package allows is tried."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def _licences() -> ModuleType:
    spec = importlib.util.spec_from_file_location("licences", ROOT / "infra" / "licences.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _files(pattern: str) -> list[Path]:
    """Of the tree, what is installed or made in it left out."""
    found = (path.relative_to(ROOT) for path in ROOT.rglob(pattern))
    return [path for path in found if not any(part == "node_modules" or part.startswith(".") for part in path.parts)]


def _with_hashes() -> list[Path]:
    pins = [path for pattern in ("*.lock", "*.txt") for path in _files(pattern)]
    return [path for path in pins if "--hash=sha256:" in (ROOT / path).read_text(encoding="utf-8")]


def test_every_lock_file_is_audited_each_day_and_at_each_push() -> None:
    audited = WORKFLOW["jobs"]["audit"]["strategy"]["matrix"]["lock"]
    assert sorted(audited) == sorted(map(str, _with_hashes()))
    (audit,) = [step["run"] for step in WORKFLOW["jobs"]["audit"]["steps"] if "pip-audit --" in step.get("run", "")]
    assert audit.endswith("-r ${{ matrix.lock }}")
    (audit_node,) = [step["run"] for step in WORKFLOW["jobs"]["audit-node"]["steps"] if "run" in step]
    (package_lock,) = _files("package-lock.json")
    assert audit_node.endswith(f"--prefix {package_lock.parent}")
    triggers = WORKFLOW[True]  # YAML 1.1 reads `on` as true
    assert {"push", "schedule"} <= set(triggers)


def test_make_lock_writes_every_lock_file_and_names_no_host() -> None:
    (recipe,) = re.findall(r"^lock: .*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)
    assert sorted(re.findall(r"-o (\S+)", recipe)) == sorted(map(str, _files("*.lock")))
    (compiles,) = re.findall(r"^COMPILE = (.+)$", MAKEFILE, flags=re.MULTILINE)
    assert {"--generate-hashes", "--no-emit-index-url"} <= set(compiles.split())


def test_the_suite_runs_on_every_python_that_the_package_names() -> None:
    tried = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert tried == re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert PROJECT["requires-python"] == f">={tried[0]}"


def test_the_lowest_and_the_highest_versions_are_tried_each_day_and_at_each_push() -> None:
    job = WORKFLOW["jobs"]["versions"]
    (tried,) = re.findall(r"^VERSIONS \?= (.+)$", MAKEFILE, flags=re.MULTILINE)
    assert job["strategy"]["matrix"]["resolution"] == tried.split() == ["lowest-direct", "highest"]
    assert job["steps"][-1]["run"] == "make versions VERSIONS=${{ matrix.resolution }}"
    assert "if" not in job
    unbounded = [each for each in PROJECT["dependencies"] if not re.search(r">=\d", each)]
    assert unbounded == [], "without a lower bound the lowest version is the first that was ever published"


def test_a_commit_is_checked_with_the_programs_of_make_check() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    hooks = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in repository["hooks"]}
    (recipe,) = re.findall(r"^check: .*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)
    assert hooks == set(re.findall(r'"\$\(BIN\)/([\w-]+)"', recipe))


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
    brought: dict[str, str] = licences.vendored()
    assert {name: licence for name, licence in brought.items() if not licences.ALLOWED.search(licence)} == {}
    rows = {line.split(" | ")[0].lstrip("| ") for line in listed.splitlines() if line.startswith("| ")}
    assert rows - {"package", "module"} <= {*licences.pinned(), *brought}, "make licences"
    assert set(brought) <= rows, "make licences"
