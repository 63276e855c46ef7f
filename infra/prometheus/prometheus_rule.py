"""Print alerts.yml as a PrometheusRule for Kubernetes; `make alerts` writes infra/k8s/alerts.yaml with it."""

from __future__ import annotations

import sys
from pathlib import Path

HEAD = """\
# Made from infra/prometheus/alerts.yml by infra/prometheus/prometheus_rule.py (`make alerts`); a test holds them equal.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: chorus
  labels: {app.kubernetes.io/name: chorus}
spec:
"""


def main() -> None:
    rules = (Path(__file__).parent / "alerts.yml").read_text(encoding="utf-8")
    body = rules[rules.index("groups:") :]
    sys.stdout.write(HEAD + "".join(f"  {line}\n" for line in body.splitlines()))


if __name__ == "__main__":
    main()
