"""Alerts, runbooks and dashboards: each speaks of metrics that exist, and each alert has its page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY

import app.main  # noqa: F401  every metric is declared on import
from app.cli import main

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "infra" / "prometheus"
DASHBOARDS = sorted((ROOT / "infra" / "grafana" / "dashboards").glob("*.json"))
UNITS = ("_seconds", "_bytes", "_total", "_info", "_ratio")
COUNTED = {
    "chorus_account_blocked", "chorus_account_problem",
    "chorus_cache_entries", "chorus_cache_owed", "chorus_cache_trusted", "chorus_circuit_breaker_fleet_up",
    "chorus_circuit_breaker_state", "chorus_claim_room", "chorus_dependency_up",
    "chorus_events_queue_dead", "chorus_events_queue_dead_lost", "chorus_events_queue_pending",
    "chorus_feed_readers",
    "chorus_fleet_replicas", "chorus_inbox_diverted",
    "chorus_journal_unmoved", "chorus_queue_dead", "chorus_queue_dead_lost",
    "chorus_queue_pending", "chorus_ready", "chorus_redis_durable", "chorus_redis_replicas",
    "chorus_silent_numbers",
}  # fmt: skip
"""Gauges of things that are counted, or yes and no: they have no unit."""
LABELS = {
    "build", "dependency", "event", "field", "kind", "le", "loop", "method", "name", "outcome", "python", "reason",
    "result", "route", "stage", "state", "status", "tier", "to", "verdict", "version",
}  # fmt: skip
"""All of them have few values, known in advance."""


@cache
def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def samples() -> set[str]:
    names: set[str] = set()
    for family in REGISTRY.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "info": ("_info",)}
        names |= {family.name + suffix for suffix in suffixes.get(family.type, ("",))}
    return names


def _metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:chorus|process)_[a-z_]+", expression))


def test_every_metric_has_our_prefix_a_base_unit_and_bounded_labels() -> None:
    for family in REGISTRY.collect():
        if family.name.startswith(("python_", "process_")):
            continue
        assert family.name.startswith("chorus_"), family.name
        exposed = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
        assert exposed.endswith(UNITS) or exposed in COUNTED, exposed
        assert family.documentation, family.name
        for sample in family.samples:
            assert set(sample.labels) <= LABELS, (sample.name, sample.labels)
            for label, value in sample.labels.items():
                assert label in {"le", "build"} or not re.search(r"\d{6}", value), (sample.name, label)


def test_alerts_speak_of_metrics_that_exist() -> None:
    for rule in rules():
        assert _metrics_in(rule["expr"]) <= samples(), rule["alert"]
        assert rule["labels"]["severity"] in {"page", "ticket"}


def test_every_alert_has_a_runbook_of_its_name_and_every_runbook_an_alert() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert pages == {rule["alert"] for rule in rules()}
    index = (ROOT / "docs" / "runbooks" / "README.md").read_text(encoding="utf-8")
    for rule in rules():
        assert rule["annotations"]["runbook"] == f"docs/runbooks/{rule['alert']}.md"
        text = (ROOT / rule["annotations"]["runbook"]).read_text(encoding="utf-8")
        for part in ("## What it means", "## What users see", "## Look", "## Do", rule["expr"]):
            assert part in text, (rule["alert"], part)
        assert f"({rule['alert']}.md) | {rule['labels']['severity']} |" in index


def test_runbooks_name_commands_that_exist() -> None:
    commands = set(main.commands)
    for page in (ROOT / "docs" / "runbooks").glob("*.md"):
        for command in re.findall(r"`chorus ([a-z]+)", page.read_text(encoding="utf-8")):
            assert command in commands, (page.name, command)


def test_every_alert_has_a_test_that_it_fires_and_one_that_it_does_not() -> None:
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    names = {test["name"] for test in tests}
    assert names == {f"{rule['alert']} {what}" for rule in rules() for what in ("fires", "stays quiet")}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool on this machine (Debian: prometheus)")
@pytest.mark.parametrize("arguments", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]])
def test_promtool_is_content(arguments: list[str]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_shows_metrics_that_exist_and_nothing_twice(path: Path) -> None:
    board = json.loads(path.read_text(encoding="utf-8"))
    assert board["uid"] == f"chorus-{path.stem}"
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(places)) == len(places)
    for panel in panels:
        assert panel["datasource"]["uid"] == "prometheus"
        for target in panel["targets"]:
            assert _metrics_in(target["expr"]) <= samples(), panel["title"]


def test_there_are_three_dashboards_and_grafana_finds_them() -> None:
    assert len(DASHBOARDS) == 3
    provisioning = ROOT / "infra" / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text(encoding="utf-8"))
    assert source["datasources"][0]["uid"] == "prometheus"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "chorus.yml").read_text(encoding="utf-8"))["providers"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
