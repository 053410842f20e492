"""Fixtures of the tests that need a real API server.

`new_cluster` starts servers with nothing of ours in them; `cluster` is the one of the session, with the CRD.
Tests share it: each works in a namespace of its own (`namespace`) or undoes what it did to the whole cluster.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from cluster.audit_setting import Setting
from cluster.installation import Installation, install, wipe
from cluster.programs import BUILDS, find_helms
from cluster.verdicts import argo_health, find_kstatus, find_lua, judge
from support.apiserver import ApiServer
from support.helm import MAJORS, Helm
from support.kube_tools import Tools, find_kube_state_metrics, find_tools
from support.manifests import K8S, prepare
from support.programs import ProgramMissing, found_or_skipped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from support.postgres import Database

CRDS = Path(__file__).parents[2] / "crds"
CRD = CRDS / "postgreswriters.yaml"
_numbers = count(1)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the programs before the first test: a build of minutes inside a fixture would count as that test's time."""
    needed = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    if session.config.option.collectonly:
        return
    for fixture, find in BUILDS.items():
        if fixture in needed:
            with suppress(ProgramMissing):  # the fixture says so, test by test
                find()


@pytest.fixture(scope="session")
def kube_tools() -> Tools:
    """Find or build the API server's programs; without them skip, but fail in CI, where a skip would hide it."""
    return found_or_skipped(find_tools)


@pytest.fixture(scope="session")
def state_metrics_program() -> Path:
    """Find or build kube-state-metrics."""
    return found_or_skipped(find_kube_state_metrics)


@pytest.fixture(scope="session")
def helm_programs() -> list[Path]:
    """Find or build Helm, each version that `support.helm.Helm` runs."""
    return found_or_skipped(find_helms)


@pytest.fixture(scope="session")
def kustomize(kube_tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> ApiServer:
    """Give kubectl; no server is started."""
    return ApiServer(tmp_path_factory.mktemp("kubectl"), kube_tools)


@pytest.fixture
def helms(tmp_path: Path) -> list[Helm]:
    """Give Helm, each version, on no cluster."""
    return [Helm(major, tmp_path) for major in MAJORS]


@pytest.fixture(scope="session")
def kstatus() -> Callable[[Iterable[dict[str, Any]]], list[str]]:
    """Give kstatus's verdicts on objects, in their order."""
    found_or_skipped(find_kstatus)
    return judge


@pytest.fixture(scope="session")
def argo() -> Callable[[Iterable[dict[str, Any]]], list[str]]:
    """Give Argo CD's health of objects, in their order."""
    found_or_skipped(find_lua)
    return argo_health


@pytest.fixture(scope="session")
def new_cluster(kube_tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], ApiServer]]:
    """Give a function that starts one more API server, empty; all are stopped at the end of the session."""
    with ExitStack() as running:
        yield lambda: running.enter_context(ApiServer(tmp_path_factory.mktemp("apiserver"), kube_tools))


@pytest.fixture(scope="session")
def cluster(new_cluster: Callable[[], ApiServer]) -> ApiServer:
    """Start the session's API server with our CRD, and with controllers if they are to be had (see `controllers`)."""
    server = new_cluster()
    if server.tools.controller_manager is not None:
        server.start_controllers()
    apply_crd(server)
    return server


@pytest.fixture(scope="module")
def empty(new_cluster: Callable[[], ApiServer]) -> Iterator[ApiServer]:
    """Start one more API server with controllers and nothing of ours, for what changes or removes a whole install."""
    server = new_cluster()
    server.start_controllers()
    yield server
    server.stop()


@pytest.fixture
def installation(empty: ApiServer, database: Database) -> Iterator[Installation]:
    """Install as docs/install.md says, and remove everything afterwards."""
    install(empty)
    yield Installation(empty, database)
    wipe(empty)


@pytest.fixture
def setting(cluster: ApiServer, namespace: str, database: Database) -> Setting:
    """Give a namespace and a database for the audit to compare."""
    return Setting(cluster, namespace, database)


@pytest.fixture
def controllers(cluster: ApiServer) -> None:
    """Skip what needs a controller (a namespace that goes, pods of a Deployment, aggregated roles) without them."""
    if cluster.tools.controller_manager is None:
        pytest.skip("KUBEBUILDER_ASSETS has no kube-controller-manager; unset it, or add that program there.")


@pytest.fixture
def namespace(cluster: ApiServer) -> str:
    """Make a new namespace; it is left behind, because the whole server goes at the end."""
    name = f"test-{next(_numbers)}"
    cluster.kubectl("create", "namespace", name)
    return name


def apply_crd(server: ApiServer, crd: Path | None = None) -> None:
    """Apply the CRDs as the documentation says, or one file; wait until the resources and schemas are served."""
    server.kubectl(
        "apply", "--server-side", "--validate=strict", *(("-k", str(CRDS)) if crd is None else ("-f", str(crd)))
    )
    for file in [crd] if crd is not None else CRDS.glob("postgres*.yaml"):
        definition = yaml.safe_load(file.read_text())
        server.kubectl("wait", "--for=condition=Established", "--timeout=60s", f"crd/{definition['metadata']['name']}")
        # the handler of the resources follows a changed CRD at once, the published schema a little later
        version = definition["spec"]["versions"][0]
        status = version["schema"]["openAPIV3Schema"]["properties"]["status"]["description"]
        path = f"{definition['spec']['names']['singular']}.status"
        end = time.monotonic() + 60
        while status not in " ".join(server.kubectl("explain", path, check=False).stdout.split()):
            assert time.monotonic() < end, "the schema was not published within 60 s"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def prepared(cluster: ApiServer) -> Iterator[ApiServer]:
    """Give a cluster with Metacontroller's kinds and the default install."""
    prepare(cluster)
    cluster.kubectl("apply", "--server-side", "-k", str(K8S))
    yield cluster
    apply_crd(cluster)
