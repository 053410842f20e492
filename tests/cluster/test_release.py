"""install.yaml of a release is the default install with the image of the release, pinned by its digest.

The package of the chart is tested by test_chart_released.py.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from postgres_writer import __version__
from support.documents import guide
from support.kube_tools import Tools

ROOT = Path(__file__).parents[2]
PLURALS = ("postgreswriters", "postgresrows")
DIGEST = f"sha256:{'0123456789abcdef' * 4}"


@pytest.mark.parametrize(
    "image", [f"ghcr.io/some/where:{__version__}@{DIGEST}", "registry.example.com:5000/some/where:2.0"]
)
def test_only_the_image_differs_from_the_default_install(kube_tools: Tools, image: str) -> None:
    folders = sorted((ROOT / "k8s").iterdir())
    environ = {**os.environ, "KUBECTL": str(kube_tools.kubectl)}
    done = subprocess.run(
        [ROOT / ".ci" / "release", "render", image], env=environ, capture_output=True, text=True, check=True
    )
    default = subprocess.run(
        [kube_tools.kubectl, "kustomize", ROOT / "k8s" / "default"], capture_output=True, text=True, check=True
    )
    rendered, wanted = _documents(done.stdout), _documents(default.stdout)
    assert len(wanted) > 8
    names = {(document["kind"], document["metadata"]["name"]) for document in rendered}
    assert names >= {("CustomResourceDefinition", f"{plural}.demo.yash.com") for plural in PLURALS}
    assert names >= {("CompositeController", f"postgres-writer{more}") for more in ("", "-row")}
    images = []
    for document in (*rendered, *wanted):
        if document["kind"] == "Deployment":
            (container,) = document["spec"]["template"]["spec"]["containers"]
            images.append(container.pop("image"))
    assert images == [image, f"postgres-writer:{__version__}"]
    assert rendered == wanted
    assert done.stdout.startswith(f"# PostgresWriter {__version__}: ")
    assert sorted((ROOT / "k8s").iterdir()) == folders, "nothing of the rendering is left behind"


def test_the_files_of_a_release_are_those_that_the_guide_applies(kube_tools: Tools, tmp_path: Path) -> None:
    environ = {**os.environ, "KUBECTL": str(kube_tools.kubectl)}
    (tmp_path / "postgres-writer-1.2.3.tgz").write_text("the package")
    command = [str(ROOT / ".ci" / "release"), "files", f"ghcr.io/some/where@{DIGEST}", str(tmp_path)]
    subprocess.run(command, env=environ, check=True)
    check = ["sha256sum", "--check", "SHA256SUMS"]
    sums = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=True)
    said = {line.removesuffix(": OK") for line in sums.stdout.splitlines()}
    assert said | {"SHA256SUMS"} == {path.name for path in tmp_path.iterdir()}
    components = ROOT / "k8s" / "components"
    for name, source in (
        ("early-finalizer", "early-finalizer/policies"),
        ("metacontroller-flags", "metacontroller-flags/args"),
    ):
        assert (tmp_path / f"{name}.yaml").read_text() == (components / f"{source}.yaml").read_text()
    (page,) = guide("Install with kubectl")[:1]
    assert set(re.findall(r"\$RELEASE/(\S+)\"", page)) == {path.name for path in tmp_path.glob("*.yaml")}


def _documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]
