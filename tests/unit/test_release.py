"""A release has one version and one address; `.ci/release` finds what contradicts them before anything is published."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from postgres_writer import __version__

ROOT = Path(__file__).parents[2]
CRONJOB = "k8s/components/audit/cronjob.yaml"
TAGGED = ("k8s/default/kustomization.yaml", "k8s/overlays/example/kustomization.yaml")
CHART = "k8s/chart/Chart.yaml"
DOCUMENTS = ("README.md", "docs/install.md", "docs/helm.md", "SECURITY.md")
IN_THE_DOCUMENTS = re.compile(r"(?:postgres-writer:|\bVERSION=|--version |samples\?ref=v|download/v)(\d+\.\d+\.\d+)")
OTHERS = re.compile(r"(metacontroller|rhysd|wg|kubernetes|prometheus)/")
"""Owners of what the documents link to and that is not ours."""


def release(*arguments: str, root: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [root / ".ci" / "release", *arguments],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def address() -> str:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser["metadata"]["url"]


@pytest.mark.parametrize("path", TAGGED)
def test_the_manifests_name_the_image_of_this_version(path: str) -> None:
    (image,) = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))["images"]
    assert (image["name"], image["newTag"]) == ("postgres-writer", __version__)


def test_the_audit_runs_the_image_of_this_version() -> None:
    template = yaml.safe_load((ROOT / CRONJOB).read_text(encoding="utf-8"))["spec"]["jobTemplate"]["spec"]["template"]
    assert template["spec"]["containers"][0]["image"] == f"postgres-writer:{__version__}"


def test_the_chart_is_of_this_version_and_leads_to_the_project(address: str) -> None:
    chart = yaml.safe_load((ROOT / CHART).read_text(encoding="utf-8"))
    assert (chart["version"], chart["appVersion"], chart["home"]) == (__version__, __version__, address)


def test_every_link_of_the_package_leads_to_the_project(address: str) -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    links = re.findall(r"https://\S+", parser["metadata"]["project_urls"])
    assert len(links) >= 3
    assert all(link.startswith(f"{address}/") for link in links)


def test_a_tag_of_this_version_names_image_and_version(address: str) -> None:
    repository = address.removeprefix("https://github.com/")
    done = release("names", GITHUB_REF_NAME=f"v{__version__}", GITHUB_REPOSITORY=repository)
    assert (done.returncode, done.stderr) == (0, "")
    image = f"ghcr.io/{repository.lower()}"
    charts = f"{image.rpartition('/')[0]}/charts"
    assert done.stdout.splitlines() == [f"version={__version__}", f"image={image}", f"charts={charts}"]


@pytest.mark.parametrize(
    ("tag", "repository", "sentence"),
    [("v99.0.0", None, "the tag is v99.0.0"), (f"v{__version__}", "someone/else", "this repository is someone/else")],
    ids=["another version", "another repository"],
)
def test_what_contradicts_the_package_is_refused(address: str, tag: str, repository: str | None, sentence: str) -> None:
    here = repository or address.removeprefix("https://github.com/")
    done = release("names", GITHUB_REF_NAME=tag, GITHUB_REPOSITORY=here)
    assert (done.returncode, done.stdout) == (1, "")
    assert sentence in done.stderr


def test_the_notes_are_the_section_of_the_changelog_and_nothing_of_the_next() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    done = release("notes", "0.1.0")
    assert done.returncode == 0
    assert done.stdout.strip() in changelog
    assert "Migration from the original operator" in done.stdout
    assert "## [" not in done.stdout


def test_a_version_without_a_section_is_refused() -> None:
    done = release("notes", "99.0.0")
    assert (done.returncode, done.stderr) == (1, "release: CHANGELOG.md has no section for 99.0.0.\n")


@pytest.mark.parametrize("name", [*DOCUMENTS, "CONTRIBUTING.md"])
def test_the_documents_name_the_project_s_address(address: str, name: str) -> None:
    owner, _, repository = address.removeprefix("https://github.com/").lower().partition("/")
    places = re.findall(
        r"(?<!docs\.)(?:github\.com|ghcr\.io)/([\w-]+/+[\w-]+(?:/[\w-]+)?)", (ROOT / name).read_text(encoding="utf-8")
    )
    ours = {place.replace("//", "/") for place in places if not OTHERS.match(place)}
    assert [place for place in ours if not f"{place}/".startswith((f"{owner}/{repository}/", f"{owner}/charts/"))] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_documents_name_this_version(name: str) -> None:
    assert set(IN_THE_DOCUMENTS.findall((ROOT / name).read_text(encoding="utf-8"))) == {__version__}


def test_what_is_pushed_is_signed_by_the_digest_that_helm_prints(tmp_path: Path) -> None:
    helm = tmp_path / "helm"
    digest = f"sha256:{'0123456789abcdef' * 4}"
    # what Helm 3.22 and 4.3 print, with a registry or without one
    helm.write_text(
        f"#!/bin/sh\n[ $3 != oci://none ] || {{ echo 'Error: no such host' >&2; exit 1; }}\n"
        f'echo "Pushed: $3/postgres-writer:0.2.0"\n[ $2 = odd.tgz ] || echo "Digest: {digest}" >&2\n'
    )
    helm.chmod(0o700)
    done = release("push", "package.tgz", "ghcr.io/some/charts", HELM=str(helm))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{digest}\n", "")
    for package, place, sentence in (
        ("odd.tgz", "ghcr.io/some/charts", "helm push printed no digest: Pushed: oci://ghcr.io/some/charts/"),
        ("package.tgz", "none", "Error: no such host"),
    ):
        done = release("push", package, place, HELM=str(helm))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"release: {sentence}")


def test_a_new_version_is_written_everywhere(tmp_path: Path) -> None:
    files = (".ci/release", "hooks/postgres_writer/__init__.py", CRONJOB, CHART, *TAGGED)
    for name in (*files, *DOCUMENTS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    assert release("version", "98.7.6", root=tmp_path).returncode == 0
    for name in DOCUMENTS:
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert set(IN_THE_DOCUMENTS.findall(text)) == {"98.7.6"}
        # nothing else has changed, such as what is said of an older release
        assert text.replace("98.7.6", __version__) == (ROOT / name).read_text(encoding="utf-8")
    for name in files[1:]:
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "98.7.6" in text
        assert text == (ROOT / name).read_text(encoding="utf-8").replace(__version__, "98.7.6")
    assert release("version", "98.7", root=tmp_path).returncode == 1
