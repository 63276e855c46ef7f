"""infra/k8s: valid by Kubernetes' published schemas, and each pod with all that a safe rollout needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.core.config import Settings
from app.core.registry import STALE_AFTER_SECONDS

FOLDER = Path(__file__).resolve().parents[2] / "infra" / "k8s"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))
OBJECTS: list[dict[str, Any]] = [
    document
    for name in KUSTOMIZATION["resources"]
    for document in yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
]
OF_AN_OPERATOR = {"monitoring.coreos.com/v1"}
"""Custom resources: their schema is not among the published ones, their shape is tested below."""
VERSIONS = ["1.30", "1.35"]
"""The oldest that knows `preStop.sleep` by default, and a recent one."""


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [o for o in OBJECTS if o["kind"] == kind]


def pods() -> list[dict[str, Any]]:
    return [o["spec"]["template"]["spec"] for o in OBJECTS if o["kind"] in {"Deployment", "Job"}]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_by_the_published_schemas(version: str) -> None:
    for each in OBJECTS:
        if each["apiVersion"] not in OF_AN_OPERATOR:
            kubernetes_validate.validate(each, version, strict=True)


def test_every_file_is_applied() -> None:
    assert set(KUSTOMIZATION["resources"]) == {p.name for p in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}


@pytest.mark.parametrize("deployment", of_kind("Deployment"), ids=lambda d: d["metadata"]["name"])
def test_a_deployment_rolls_without_a_gap(deployment: dict[str, Any]) -> None:
    spec = deployment["spec"]
    labels = spec["selector"]["matchLabels"]
    assert spec["replicas"] >= 2
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    for kind in ("PodDisruptionBudget", "HorizontalPodAutoscaler"):
        (beside,) = [o for o in of_kind(kind) if o["metadata"]["name"] == deployment["metadata"]["name"]]
        assert beside["spec"].get("selector", {"matchLabels": labels})["matchLabels"] == labels
    pod = spec["template"]["spec"]
    assert {c["topologyKey"] for c in pod["topologySpreadConstraints"]} == {
        "topology.kubernetes.io/zone", "kubernetes.io/hostname",
    }  # fmt: skip
    (container,) = pod["containers"]
    assert {container[f"{p}Probe"]["httpGet"]["path"] for p in ("startup", "liveness")} == {"/health/live"}
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"


def test_a_pod_is_out_of_rotation_before_it_stops_listening_and_has_time_to_end() -> None:
    drain = float(next(o for o in of_kind("ConfigMap"))["data"]["DRAIN_SECONDS"])
    for deployment in of_kind("Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        probe = container["readinessProbe"]
        assert drain > probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
        pre_stop = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod["terminationGracePeriodSeconds"] >= pre_stop + drain + 30 + 15
        assert pod["terminationGracePeriodSeconds"] > STALE_AFTER_SECONDS


def test_no_pod_has_more_rights_than_it_needs() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        rights = container["securityContext"]
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]


def test_no_secret_is_in_the_folder_and_every_setting_exists() -> None:
    assert of_kind("Secret") == []
    assert set(of_kind("ConfigMap")[0]["data"]) <= {name.upper() for name in Settings.model_fields}
    for pod in pods():
        assert {"secretRef": {"name": "chorus"}} in pod["containers"][0]["envFrom"]


def test_the_network_policy_lets_in_the_ingress_and_prometheus_and_out_what_is_needed() -> None:
    everybody, api = of_kind("NetworkPolicy")
    assert everybody["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert api["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "api"
    ports = {port["port"] for rule in everybody["spec"]["egress"] for port in rule["ports"]}
    assert ports == {53, 6379, 6380, 26379, 5432, 443}


def test_prometheus_finds_every_pod() -> None:
    (monitor,) = of_kind("ServiceMonitor")
    (metrics,) = [s for s in of_kind("Service") if s["metadata"]["name"] == "chorus-metrics"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= metrics["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == metrics["spec"]["ports"][0]["name"]
    assert re.fullmatch(r"\d+s", monitor["spec"]["endpoints"][0]["interval"])
    for deployment in of_kind("Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert metrics["spec"]["selector"].items() <= labels.items()
