"""The alerts and the dashboard: checked by Prometheus' own tool, and against a scrape of the running server."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from postgres_writer.config.variables import DEFAULT_DATABASE
from postgres_writer.errors import Reason
from postgres_writer.telemetry.metrics import PAUSED
from support.alerts import RULES, promtool, rule_expressions
from support.payloads import payload, resource
from support.scrape import Scrape, scrape
from support.server import running_server

if TYPE_CHECKING:
    from support.postgres import Database

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "k8s" / "components" / "monitoring"
ALERT_TESTS = Path(__file__).with_name("alerts_test.yaml")
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
METRIC = re.compile(r"\b(postgres_writer_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
# Prometheus adds these to every sample
TARGET_LABELS = {"job", "pod"}
GROUPED = re.compile(r"\bby \(([^)]*)\)")
# they are about hook requests of whatever database
OF_NO_DATABASE = {"PostgresWriterErrorRatio", "PostgresWriterNoHookCalls", "PostgresWriterRequestsRefused"}


def panel_expressions() -> dict[str, str]:
    """Return every expression of the dashboard, with Grafana's variables replaced."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        .replace("$__rate_interval", "5m")
        .replace("$job", "postgres-writer")
        .replace("$database", DEFAULT_DATABASE)
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", [])
    }


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """Write the rules as Prometheus reads them: without the wrapping of the operator."""
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(RULES))
    return path


def test_promtool_accepts_the_rules(rules: Path) -> None:
    done = promtool("check", "rules", str(rules))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rule_expressions())} rules found" in done.stdout


def test_the_alerts_fire_when_they_should_and_only_then(rules: Path) -> None:
    copy = shutil.copy(ALERT_TESTS, rules.parent)
    done = promtool("test", "rules", str(copy))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_not() -> None:
    cases = [
        case for test in yaml.safe_load(ALERT_TESTS.read_text())["tests"] for case in test.get("alert_rule_test", [])
    ]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == rule_expressions().keys()


def test_promtool_accepts_the_expressions_of_the_panels(tmp_path: Path) -> None:
    recorded = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(panel_expressions().values())]
    path = tmp_path / "panels.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}))
    done = promtool("check", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def running_scrape(shared_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Scrape:
    """Scrape a server that has answered one request: what is to exist must exist from the start."""
    # the component audit mounts the folder in which this file will be
    result = tmp_path_factory.mktemp("audit") / "result.json"
    with running_server(shared_database, HOOK_AUDIT_RESULT_FILE=str(result)) as server:
        assert server.post("sync", payload(resource())).status_code == 200
        return scrape(server)


# what kube-state-metrics gives is in tests/cluster/test_resource_metrics.py
OF_THE_SERVER = {name: expr for name, expr in rule_expressions().items() if "postgres_writer_resource_" not in expr}


@pytest.mark.parametrize(
    "expression",
    [*OF_THE_SERVER.values(), *panel_expressions().values()],
    ids=[*OF_THE_SERVER, *panel_expressions()],
)
def test_every_series_that_an_expression_names_is_in_a_scrape(expression: str, running_scrape: Scrape) -> None:
    named = METRIC.findall(expression)
    assert named or "up{" in expression, expression
    for name, matchers in named:
        series = [dict(labels) for known, labels in running_scrape.samples if known == name]
        assert series, f"{name} is in no scrape"
        grouped = {label for labels in GROUPED.findall(expression) for label in labels.split(", ")}
        assert grouped - TARGET_LABELS <= series[0].keys(), f"{name} is grouped by a label that it lacks"
        for label, operator, value in MATCHER.findall(matchers):
            if label in TARGET_LABELS:
                continue
            known_values = {labels.get(label) for labels in series}
            assert None not in known_values, f"{name} has no label {label}"
            wanted = set(value.split("|")) if operator in ("=~", "!~") else {value}
            assert wanted <= known_values, f"{label} of {name} is never {wanted - known_values}"


def test_an_alert_about_a_database_is_raised_for_each_and_names_it(running_scrape: Scrape) -> None:
    per_database = {name for name, labels in running_scrape.samples if "database" in dict(labels)}
    rules = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
    about = {
        name for name, expr in OF_THE_SERVER.items() if any(found in per_database for found, _ in METRIC.findall(expr))
    }
    assert len(about - OF_NO_DATABASE) == 4
    for name in about - OF_NO_DATABASE:
        assert "by (database)" in rules[name]["expr"], name
        assert "{{ $labels.database }}" in rules[name]["annotations"]["summary"], name


def test_every_panel_about_a_database_follows_the_choice(running_scrape: Scrape) -> None:
    per_database = {name for name, labels in running_scrape.samples if "database" in dict(labels)}
    for title, expression in panel_expressions().items():
        for name, matchers in METRIC.findall(expression):
            assert (name in per_database) is (f'database=~"{DEFAULT_DATABASE}"' in matchers), title


def test_no_reason_is_forgotten_in_the_error_ratio() -> None:
    excluded = re.search(r'reason!~"([^"]*)"', rule_expressions()["PostgresWriterErrorRatio"])
    assert excluded is not None
    harmless = {"RowSynced", "RowDeleted", "Unmanaged", "Paused", "TableRecorded"}
    assert set(excluded[1].split("|")) == harmless | {"DatabaseUnavailable"}
    assert harmless <= {reason.value for reason in Reason} | {PAUSED}


def test_the_dashboard_can_be_imported() -> None:
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    assert DASHBOARD["uid"] == "postgres-writer"
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        if panel["type"] != "row":
            assert panel["targets"], panel["title"]
            assert panel["description"].endswith("."), panel["title"]
            assert panel["datasource"]["uid"] == "${datasource}"
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "job", "database"}
