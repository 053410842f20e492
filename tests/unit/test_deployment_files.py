"""What the files of the image and of the manifests must have in common with the code and with each other."""

from __future__ import annotations

import configparser
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from postgres_writer.config.settings import SETTINGS, Config, DatabaseConfig
from postgres_writer.database.databases import Databases
from postgres_writer.server.app import create_app
from support.programs import require_program

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"

Manifest = dict[str, Any]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pod() -> Manifest:
    spec: Manifest = load(K8S / "base" / "deployment.yaml")["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def container(pod: Manifest) -> Manifest:
    (only,) = pod["containers"]
    assert isinstance(only, dict)
    return only


def locked(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", text, re.MULTILINE))


def required() -> list[Requirement]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return [Requirement(line) for line in parser["options"]["install_requires"].split("\n") if line]


@pytest.mark.parametrize("requirement", required(), ids=str)
def test_the_lock_satisfies_what_the_package_requires(requirement: Requirement) -> None:
    name = re.sub(r"[-_.]+", "-", requirement.name).lower()
    assert requirement.specifier.contains(locked("requirements.lock")[name]), "run `make lock`"


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-build.lock"])
def test_every_locked_package_has_hashes(name: str) -> None:
    entries = re.split(r"^(?=[a-z0-9-]+==)", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)


def test_the_image_runs_the_server_as_the_user_of_the_pod(pod: Manifest) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    context = pod["securityContext"]
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}\n" in dockerfile
    assert 'ENTRYPOINT ["postgres-writer", "serve"]\n' in dockerfile


def test_every_variable_of_the_manifests_is_a_setting_of_the_server(container: Manifest) -> None:
    patches = [load(path) for path in (K8S / "components").glob("*/deployment.yaml")]
    containers = [container, *(patch["spec"]["template"]["spec"]["containers"][0] for patch in patches)]
    names = {entry["name"] for part in containers for entry in part.get("env", [])}
    assert len(names) >= 8
    assert names <= {setting.name for setting in SETTINGS}


def test_every_file_that_a_variable_names_is_in_a_mounted_folder(container: Manifest) -> None:
    patches = [load(path) for path in (K8S / "components").glob("*/deployment.yaml")]
    for part in (container, *(patch["spec"]["template"]["spec"]["containers"][0] for patch in patches)):
        folders = {mount["mountPath"] for mount in part.get("volumeMounts", [])}
        files = [entry["value"] for entry in part.get("env", []) if entry["name"].endswith("_FILE")]
        assert all(str(Path(file).parent) in folders for file in files)


def test_probes_ask_what_the_server_answers(container: Manifest) -> None:
    config = Config(database=DatabaseConfig(("/nowhere",)))
    client = create_app(config, Databases(config, {})).test_client()
    paths = [container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")]
    assert [client.get(path).status_code for path in paths] == [200, 200, 200]


def test_service_budget_and_policy_select_the_pods(container: Manifest) -> None:
    deployment = load(K8S / "base" / "deployment.yaml")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    service = load(K8S / "base" / "service.yaml")["spec"]
    policy = load(K8S / "base" / "networkpolicy.yaml")["spec"]
    budget = load(K8S / "base" / "poddisruptionbudget.yaml")["spec"]
    selectors = [deployment["selector"]["matchLabels"], service["selector"]]
    selectors += [policy["podSelector"]["matchLabels"], budget["selector"]["matchLabels"]]
    assert all(selector.items() <= labels.items() for selector in selectors)
    (port,) = container["ports"]
    assert service["ports"][0]["targetPort"] == port["name"]
    assert policy["ingress"][0]["ports"][0]["port"] == port["containerPort"] == Config.port


def test_the_script_of_the_guide_is_executable() -> None:
    assert (K8S / "finalizers.sh").stat().st_mode & stat.S_IXUSR


def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    checker = require_program("shellcheck", "shellcheck")
    scripts = [ROOT / ".ci" / "run", *K8S.rglob("*.sh")]
    assert len(scripts) >= 3
    done = subprocess.run([checker, *map(str, scripts)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
