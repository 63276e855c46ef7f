"""infra/k8s: valid by Kubernetes' published schemas, and each pod with all that a safe rollout needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.adapters import receivers
from app.api.middleware import MAX_UPLOAD_BYTES
from app.core.fleet.registry import STALE_AFTER_SECONDS
from app.settings import Settings

FOLDER = Path(__file__).resolve().parents[2] / "infra" / "k8s"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text(encoding="utf-8"))

SCALERS = sorted(path.parent for path in FOLDER.glob("scaling/*/kustomization.yaml"))


def documents(folder: Path, names: list[str]) -> list[dict[str, Any]]:
    return [d for name in names for d in yaml.safe_load_all((folder / name).read_text(encoding="utf-8"))]


OBJECTS = documents(FOLDER, KUSTOMIZATION["resources"])
OF_AN_OPERATOR = {"monitoring.coreos.com/v1", "keda.sh/v1alpha1"}
"""Custom resources: their schema is not among the published ones, their shape is tested below."""
VERSIONS = ["1.27", "1.30", "1.35"]
"""An old one, one in between, a recent one."""


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [o for o in OBJECTS if o["kind"] == kind]


def config_map() -> dict[str, str]:
    (generator,) = KUSTOMIZATION["configMapGenerator"]
    assert generator["name"] == "chorus"
    lines = [line for name in generator["envs"] for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def pods() -> list[dict[str, Any]]:
    return [o["spec"]["template"]["spec"] for o in OBJECTS if o["kind"] in {"Deployment", "Job"}]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_by_the_published_schemas(version: str) -> None:
    for each in [*OBJECTS, *(document for folder in SCALERS for document in documents(folder, ["worker.yaml"]))]:
        if each["apiVersion"] not in OF_AN_OPERATOR:
            kubernetes_validate.validate(each, version, strict=True)


def test_the_namespace_comes_first() -> None:
    assert OBJECTS[0]["kind"] == "Namespace"


def scaler_of(deployment: str, folder: Path | None) -> dict[str, Any]:
    candidates = OBJECTS if folder is None else documents(folder, ["worker.yaml"])
    kinds = {"HorizontalPodAutoscaler", "ScaledObject"}
    (found,) = [o for o in candidates if o["kind"] in kinds and o["metadata"]["name"] == deployment]
    spec: dict[str, Any] = found["spec"]
    assert spec["scaleTargetRef"]["name"] == deployment
    return spec


def test_the_api_scales_on_its_cpu() -> None:
    spec = scaler_of("chorus-api", None)
    assert spec["minReplicas"] >= 2
    assert [metric["resource"]["name"] for metric in spec["metrics"]] == ["cpu"]


def test_the_workers_scale_on_what_waits_in_the_queue_whichever_scaler_is_chosen() -> None:
    assert set(KUSTOMIZATION["components"]) <= {f"scaling/{folder.name}" for folder in SCALERS}
    assert len(KUSTOMIZATION["components"]) == 1
    keda = scaler_of("chorus-worker", FOLDER / "scaling" / "keda")
    assert keda["minReplicaCount"] >= 2
    queries = {trigger["metadata"]["query"] for trigger in keda["triggers"]}
    adapter = scaler_of("chorus-worker", FOLDER / "scaling" / "prometheus-adapter")
    assert adapter["minReplicas"] >= 2
    names = {metric["external"]["metric"]["name"] for metric in adapter["metrics"]}
    assert queries == {f"max({name})" for name in names} == {
        "max(chorus_queue_oldest_seconds)", "max(chorus_queue_pending)",
    }  # fmt: skip
    rules = yaml.safe_load((FOLDER / "scaling" / "prometheus-adapter" / "values.yaml").read_text(encoding="utf-8"))
    assert {rule["seriesQuery"] for rule in rules["rules"]["external"]} == names


def test_the_ingress_speaks_tls_and_routes_what_the_balancer_lets_through() -> None:
    (ingress,) = of_kind("Ingress")
    annotations = ingress["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/enable-access-log"] == "false", "it would hold verify tokens"
    largest = annotations["nginx.ingress.kubernetes.io/proxy-body-size"]
    assert int(largest.removesuffix("m")) * 1024 * 1024 >= MAX_UPLOAD_BYTES, "people's files get through"
    spec = ingress["spec"]
    (rule,) = spec["rules"]
    assert [hosts["hosts"] for hosts in spec["tls"]] == [[rule["host"]]]
    routed = {path["path"].lstrip("/") for path in rule["http"]["paths"]}
    haproxy = (FOLDER.parent / "haproxy" / "haproxy.cfg").read_text(encoding="utf-8")
    allowed = re.findall(r"acl public var\(txn.decoded\) -m reg \^/\(([a-z/|]+)\)", haproxy)
    assert routed == {name for group in allowed for name in group.split("|")}
    assert not any(path.startswith(("metrics", "admin")) for path in routed)


def test_the_operator_gets_the_same_alerts_as_the_compose_file() -> None:
    (rule,) = of_kind("PrometheusRule")
    alerts = yaml.safe_load((FOLDER.parent / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    assert rule["spec"] == alerts, "run: make alerts"


def test_every_file_is_applied() -> None:
    assert set(KUSTOMIZATION["resources"]) == {p.name for p in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}


@pytest.mark.parametrize("deployment", of_kind("Deployment"), ids=lambda d: d["metadata"]["name"])
def test_a_deployment_rolls_without_a_gap(deployment: dict[str, Any]) -> None:
    spec = deployment["spec"]
    labels = spec["selector"]["matchLabels"]
    assert "replicas" not in spec  # an apply would overrule the autoscaler
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    (budget,) = [o for o in of_kind("PodDisruptionBudget") if o["metadata"]["name"] == deployment["metadata"]["name"]]
    assert budget["spec"]["selector"]["matchLabels"] == labels
    pod = spec["template"]["spec"]
    assert {c["topologyKey"] for c in pod["topologySpreadConstraints"]} == {
        "topology.kubernetes.io/zone", "kubernetes.io/hostname",
    }  # fmt: skip
    (container,) = pod["containers"]
    assert {container[f"{p}Probe"]["httpGet"]["path"] for p in ("startup", "liveness")} == {"/health/live"}
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"


def test_a_pod_is_out_of_rotation_before_it_stops_listening_and_has_time_to_end() -> None:
    drain = float(config_map()["DRAIN_SECONDS"])
    for deployment in of_kind("Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        probe = container["readinessProbe"]
        assert drain > probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
        program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
        assert program == "sleep"  # of the image: the action of that name needs Kubernetes 1.30
        assert pod["terminationGracePeriodSeconds"] >= float(seconds) + drain + 30 + 15
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
    assert of_kind("ConfigMap") == []  # made by kustomize, with a hash in its name: a change rolls the pods
    assert set(config_map()) <= {name.upper() for name in Settings.model_fields}
    for pod in pods():
        assert {"secretRef": {"name": "chorus"}} in pod["containers"][0]["envFrom"]


def test_the_owner_of_the_database_is_known_to_the_migrate_job_alone() -> None:
    knows = {"secretRef": {"name": "chorus-migrate"}}
    (job,) = of_kind("Job")
    assert knows in job["spec"]["template"]["spec"]["containers"][0]["envFrom"]
    for deployment in of_kind("Deployment"):
        assert knows not in deployment["spec"]["template"]["spec"]["containers"][0]["envFrom"]


def test_operators_forward_a_port_to_the_service_that_the_console_names() -> None:
    root = FOLDER.parents[1]
    (service,) = [s for s in of_kind("Service") if s["metadata"]["name"] == "chorus"]
    assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
    assert [port["port"] for port in service["spec"]["ports"]] == [80]
    assert KUSTOMIZATION["namespace"] == "chorus"
    for page in ("docs/operations.md", "backend/app/console/static/js/fleet/screen.js"):
        command = "kubectl -n chorus port-forward service/chorus 8081:80"
        assert command in (root / page).read_text(encoding="utf-8"), page


def test_the_network_policy_lets_in_the_ingress_and_prometheus_and_out_what_is_needed() -> None:
    every_pod, api = of_kind("NetworkPolicy")
    assert every_pod["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert api["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "api"
    ports = {port["port"] for rule in every_pod["spec"]["egress"] for port in rule["ports"]}
    assert ports == {53, 6379, 6380, 26379, 5432, 6543, 4318, *receivers.PORTS}
    to_receivers = [{"protocol": "TCP", "port": port} for port in receivers.PORTS]
    (internet,) = [rule["to"] for rule in every_pod["spec"]["egress"] if rule["ports"] == to_receivers]
    assert [block["ipBlock"]["cidr"] for block in internet] == ["0.0.0.0/0", "::/0"]


def test_prometheus_finds_every_pod() -> None:
    (monitor,) = of_kind("ServiceMonitor")
    (metrics,) = [s for s in of_kind("Service") if s["metadata"]["name"] == "chorus-metrics"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= metrics["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == metrics["spec"]["ports"][0]["name"]
    assert re.fullmatch(r"\d+s", monitor["spec"]["endpoints"][0]["interval"])
    assert monitor["spec"]["endpoints"][0]["authorization"]["credentials"] == {
        "name": "chorus",
        "key": "METRICS_API_KEY",
    }
    for deployment in of_kind("Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert metrics["spec"]["selector"].items() <= labels.items()
