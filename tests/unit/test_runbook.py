"""The runbook has a section for every reason and every alert, and none for what there is not."""

from __future__ import annotations

import configparser
import re
from typing import Any

import pytest
import yaml

from postgres_writer.errors import Reason
from support.documents import ROOT, anchor

RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
RULES: list[dict[str, Any]] = [
    yaml.safe_load(path.read_text()) for path in sorted(ROOT.glob("k8s/components/*/prometheusrule.yaml"))
]
ALERTS = {rule["alert"]: rule for file in RULES for group in file["spec"]["groups"] for rule in group["rules"]}


def chapter(title: str) -> dict[str, str]:
    """Return the sections of a chapter: title -> text."""
    _, _, rest = RUNBOOK.partition(f"\n# {title}\n")
    body = re.split(r"^# ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    parts = re.split(r"^## (.*)$", body, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_reason_has_a_section_and_every_section_a_reason() -> None:
    # Paused is the type of a condition; people look it up in the same place
    assert set(chapter("Reasons")) == {reason.value for reason in Reason} | {"Paused"}


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    assert set(chapter("Alerts")) == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_names_its_section(name: str) -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    page = f"{parser['metadata']['url']}/blob/main/docs/runbook.md"
    assert ALERTS[name]["annotations"]["runbook_url"] == f"{page}#{anchor(name)}"


@pytest.mark.parametrize(("title", "text"), {**chapter("Reasons"), **chapter("Alerts")}.items())
def test_a_section_says_what_it_means_what_to_check_and_how_to_fix_it(title: str, text: str) -> None:
    if "othing to do" in text or title in ("Paused", "PostgresWriterRequestsRefused"):
        return
    assert "**Check**" in text, title
    assert "**Fix**" in text, title


def test_metrics_that_the_runbook_names_are_counted() -> None:
    source = (ROOT / "hooks/postgres_writer/telemetry/metrics.py").read_text(encoding="utf-8")
    for name in set(re.findall(r"`(postgres_writer_\w+)`", RUNBOOK)):
        assert f'"{name}"' in source, name


def test_the_tests_that_the_security_review_names_are_there() -> None:
    review = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+\.py)`", review))
    assert named
    assert named <= {path.name for path in (ROOT / "tests").rglob("test_*.py")}
