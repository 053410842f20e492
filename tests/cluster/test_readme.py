"""README.md: its block installs, its resources become Ready, and what it shows of a terminal is what is seen."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import yaml

from cluster.installation import Installation, wipe
from cluster.played_programs import CANNOT_RUN, check_transcript, played_helm, played_programs
from postgres_writer import __version__
from support.documents import GUIDES, README, ROOT, code_blocks, headings, transcript
from support.helm import MAJORS, Helm
from support.manifests import prepare, shell

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.apiserver import ApiServer
    from support.postgres import Database

BLOCKS = {("Try it", "sh"): 1, ("The resources", "text"): 1, ("Install", "sh"): 2, ("Install", "console"): 1}
"""How many code blocks each section has, so that a new one cannot come in without a test.

The commands of "Try it" are run by tests/integration/test_demo.py, all others here.
"""


@pytest.fixture
def bare(empty: ApiServer, database: Database) -> Iterator[Installation]:
    """Give a cluster and a database in which nothing is installed yet."""
    prepare(empty)
    database.query("DROP TABLE students")
    yield Installation(empty, database)
    wipe(empty)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy what the block uses, because it writes a folder of its own there."""
    for name in ("crds", "k8s", "metacontroller"):
        shutil.copytree(ROOT / name, tmp_path / "checkout" / name, ignore=shutil.ignore_patterns("mine"))
    return tmp_path / "checkout"


def test_every_block_of_the_page_is_known() -> None:
    languages = re.findall(r"^```(\w+)$", README.read_text(encoding="utf-8"), re.M)
    keys = [(title, language) for _, title in headings(README)[1:] for language in sorted(set(languages))]
    assert {key: number for key in keys if (number := len(code_blocks(README, *key)))} == BLOCKS
    assert len(languages) == sum(BLOCKS.values())


IMAGE = "registry.example.com:5000/some/where:1.2.3"


@dataclass
class Newcomer:
    """Someone who pastes the blocks of the page, with variables of their own, into a shell in a folder."""

    bare: Installation
    played: dict[str, str]
    folder: Path

    def run(self, commands: str) -> str:
        """Run commands in one shell, as they are pasted."""
        environ = {**self.played, **self.yours}
        return shell(self.bare.cluster, f"cd {self.folder}\n{commands}", check=True, **environ).stdout

    @property
    def yours(self) -> dict[str, str]:
        """What replaces the values of the first lines of the blocks."""
        database = {name: value for name, value in self.played.items() if name.startswith("PG")}
        return {"PGPORT": "5432", "PGPASSWORD": "s3cret", **database, "IMAGE": IMAGE, "OVERLAY": "k8s/overlays/mine"}

    def paste(self, variables: str, *steps: str) -> str:
        """Run the steps of a block without its first lines, which only set variables."""
        assert set(re.findall(r"(\w+)=", variables)) <= self.yours.keys()
        assert re.fullmatch(r"(export( \w+=\S+)+\n?)+", variables)
        return self.run("\n\n".join(steps))


@pytest.fixture
def newcomer(bare: Installation, checkout: Path, tmp_path: Path) -> Newcomer:
    """Give the programs that a newcomer has."""
    return Newcomer(bare, played_programs(tmp_path, bare.cluster, bare.database), checkout)


@pytest.fixture
def helm(bare: Installation, helm_programs: list[Path], tmp_path: Path) -> Iterator[Helm]:
    """Give Helm, and remove the release afterwards."""
    helm = Helm(MAJORS[-1], tmp_path, bare.cluster.kubeconfig)
    yield helm
    helm.run("uninstall", "postgres-writer", "--namespace=postgres-writer")


def test_the_block_installs_and_what_the_page_shows_is_seen(newcomer: Newcomer, helm: Helm, tmp_path: Path) -> None:
    release, _ = code_blocks(README, "Install", "sh")
    variables, where, everything, rows = release.split("\n\n")
    newcomer.played = played_helm(newcomer.played, helm, tmp_path)
    assert "STATUS: deployed" in newcomer.paste(variables, where, everything)
    found = newcomer.bare.cluster.kubectl("-n", "postgres-writer", "get", "statefulset,deployment", "-o", "name").stdout
    assert found.split() == ["statefulset.apps/metacontroller", "deployment.apps/postgres-writer"]
    check_secret(newcomer)
    check_rows(newcomer, rows, tmp_path)


def test_the_block_for_a_checkout_takes_the_place_of_helm(newcomer: Newcomer, tmp_path: Path) -> None:
    release, checkout = code_blocks(README, "Install", "sh")
    variables, where, _, rows = release.split("\n\n")
    newcomer.paste(variables, where)
    first, second, *steps = checkout.splitlines()
    assert "deployment.apps/postgres-writer created" in newcomer.paste(f"{first}\n{second}", "\n".join(steps))
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"docker build -t {IMAGE} --build-arg VERSION={__version__} .",
        f"docker push {IMAGE}",
    ]
    path = "jsonpath={.spec.template.spec.containers[0].image}"
    named = ("-n", "postgres-writer", "get", "deployment", "postgres-writer", "-o", path)
    assert newcomer.bare.cluster.kubectl(*named).stdout == IMAGE
    check_secret(newcomer)
    check_rows(newcomer, rows, tmp_path)


def check_secret(newcomer: Newcomer) -> None:
    """Check that the variables of the block have arrived where they belong."""
    yours = newcomer.yours
    assert newcomer.bare.secret("postgres-writer-database") == {
        "host": yours["PGHOST"],
        "port": yours["PGPORT"],
        "dbname": yours["PGDATABASE"],
        "user": yours["PGUSER"],
        "password": yours["PGPASSWORD"],
    }


def check_rows(newcomer: Newcomer, rows: str, folder: Path) -> None:
    """Run the last step of the block and what the page shows of a terminal, then declare the page's two resources."""
    bare = newcomer.bare
    with bare.served(folder):
        # pods take longer to start than the API server needs for a new schema, of which kubectl says 503 until then
        newcomer.run("until kubectl apply -k k8s/samples --dry-run=server >/dev/null; do sleep 1; done")
        assert newcomer.run(rows).count("condition met") == 2
        (shown,) = code_blocks(README, "Install", "console")
        for command, output in transcript(shown):
            # the block's PGDATABASE
            check_transcript(newcomer.run, command, output.replace("database school", f"database {bare.database.name}"))
        bare.cluster.kubectl("create", "namespace", "billing", check=False)
        bare.cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(declared()))
        for namespace, name in (("billing", "pgr/acme"), ("default", "pgw/sample-student")):
            bare.cluster.kubectl("-n", namespace, "wait", "--for=condition=Ready", "--timeout=60s", name)
        found = bare.database.query("SELECT plan, limits, trial_ends FROM tenants WHERE id = 'row/billing/acme'")
        assert found == [("gold", {"cpu": 4}, None)]
        assert bare.database.rows() == [("default/sample-student", "alex", 23, "canada")]


def declared() -> list[dict[str, object]]:
    """Return the two manifests that the page shows side by side."""
    (block,) = code_blocks(README, "The resources", "text")
    lines = block.splitlines()
    middle = lines[0].rindex("apiVersion")
    halves = [line[:middle] for line in lines], [line[middle:] for line in lines]
    return [yaml.safe_load("\n".join(half)) for half in halves]


def test_the_list_of_what_cannot_run_names_nothing_that_no_page_has() -> None:
    sections = [(page, title) for page in (README, GUIDES[0]) for _, title in headings(page)]
    lines = {line for where in sections for block in code_blocks(*where, "sh") for line in block.splitlines()}
    assert [pattern for pattern in CANNOT_RUN if not any(re.search(pattern, line) for line in lines)] == []
