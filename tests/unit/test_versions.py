"""Make, the workflow, the gate, the image and docs/install.md name the versions that setup.cfg lists, and no others."""

from __future__ import annotations

import configparser
import re

import yaml

from support.command import make
from support.documents import ROOT
from support.postgres import PACKAGED_VERSION
from support.versions import METACONTROLLER, PAGE, POSTGRESQL, PYTHON, current

JOBS = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]


def test_the_page_shows_the_table_of_versions() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert current(page) == page, "run `make docs`"
    assert f"| {', '.join(POSTGRESQL)} |" in page
    assert f"| {', '.join(PYTHON)} |" in page
    assert len(METACONTROLLER) == 1


def test_the_lists_go_from_the_oldest_to_the_newest_which_the_tests_and_the_image_have() -> None:
    for versions in (POSTGRESQL, PYTHON):
        assert versions == sorted(versions, key=lambda version: [int(part) for part in version.split(".")])
    assert POSTGRESQL[-1] == PACKAGED_VERSION
    assert re.findall(r"python:(3\.\d+)", (ROOT / "Dockerfile").read_text(encoding="utf-8")) == [PYTHON[-1]]
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    assert setup["options"]["python_requires"] == f">={PYTHON[0]}"


def test_make_runs_on_every_postgresql_and_on_the_oldest() -> None:
    assert f"for version in {' '.join(POSTGRESQL)};" in make("-n", "test-postgres").stdout
    assert f"for version in {POSTGRESQL[0]};" in make("-n", "test-oldest").stdout
    assert f'VERSIONS="{" ".join(POSTGRESQL)}"' in make("help").stdout


def test_the_workflow_runs_on_all_and_the_gate_on_the_newest_and_the_oldest() -> None:
    matrix = JOBS["versions"]["strategy"]["matrix"]
    assert (matrix["python"], matrix["target"]) == (PYTHON, ["test", "test-oldest"])
    on = [(each["python"], each["target"]) for each in matrix["include"]]
    assert on == [(PYTHON[-1], f"test-postgres VERSIONS={version}") for version in POSTGRESQL]
    assert JOBS["gate"]["strategy"]["matrix"]["python"] == [PYTHON[0], PYTHON[-1]]
    steps = re.findall(r"^step (test\S*)(.*)", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"test", "test-oldest"} <= {target for target, _ in steps}
    assert [more for _, more in steps if "VERSIONS" in more] == []
