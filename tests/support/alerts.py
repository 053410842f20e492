"""The alerts of all components, and Prometheus' own tool to try them with."""

from __future__ import annotations

import subprocess
from typing import Any

import yaml

from support.manifests import K8S
from support.programs import require_program

RULES: dict[str, Any] = {
    "groups": [
        group
        for path in sorted(K8S.glob("components/*/prometheusrule.yaml"))
        for group in yaml.safe_load(path.read_text())["spec"]["groups"]
    ]
}


def rule_expressions() -> dict[str, str]:
    """Return the expression of every alert."""
    return {rule["alert"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"]}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run promtool; where it is missing skip the test, but fail in CI, where a skip would hide it."""
    program = require_program("promtool", "prometheus")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)
