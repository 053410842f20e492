"""The audit as it runs in a pod: the component's manifests, and the API read with a service account's own token.

No pod runs here (there are no nodes). The process gets what a pod would get: the token of the account, the CA, the
namespace, and the variables that name the API server.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster.audit_setting import PGR, PGW, PROGRAM, Setting
from postgres_writer.audit.cluster import Cluster
from postgres_writer.core.audit_result import AuditResult
from postgres_writer.errors import AuditError, ListExpired
from support.manifests import build, overlay, pick, prepare
from support.postgres import Database
from support.scrape import scrape
from support.server import running_server
from support.waiting import wait_until

if TYPE_CHECKING:
    from support.apiserver import ApiServer

pytestmark = pytest.mark.long
HOME = "postgres-writer"
NAME = "postgres-writer-audit"
ACCOUNT = f"system:serviceaccount:{HOME}:{NAME}"


@pytest.fixture(scope="module")
def installed(cluster: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> ApiServer:
    prepare(cluster)
    folder = overlay(tmp_path_factory.mktemp("audit") / "overlay", ["audit"])
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "--validate=strict", "-k", str(folder))
    return cluster


class Pod:
    """What the kubelet would put into the audit's pod, and the command of its container."""

    def __init__(self, server: ApiServer, folder: Path, account: str = NAME) -> None:
        self.server = server
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "ca.crt").write_bytes(server.certificate.read_bytes())
        (folder / "namespace").write_text(HOME)
        self.renew(account)

    def renew(self, account: str = NAME) -> None:
        """Put a new token into the folder, as the kubelet does before the old one expires."""
        token = self.server.kubectl("-n", HOME, "create", "token", account).stdout
        (self.folder / "token").write_text(token)

    @property
    def environ(self) -> dict[str, str]:
        host, _, port = self.server.url.removeprefix("https://").partition(":")
        return {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port, "PATH": "/nowhere"}

    def audit(self, database: Database, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(PROGRAM), "audit", f"--service-account={self.folder}", "--confirm-after=0.1", *arguments],
            env={**self.environ, **database.environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    def cluster(self) -> Cluster:
        return Cluster(self.environ, self.folder)


@pytest.fixture
def pod(installed: ApiServer, tmp_path: Path) -> Pod:
    return Pod(installed, tmp_path / "serviceaccount")


@pytest.fixture
def setting(installed: ApiServer, namespace: str, database: Database) -> Setting:
    return Setting(installed, namespace, database)


def stored(server: ApiServer) -> AuditResult:
    found = json.loads(server.kubectl("-n", HOME, "get", "configmap", NAME, "-o", "json").stdout)
    return AuditResult.from_json(found["data"]["result.json"])


def test_the_container_s_own_command_reports_and_stores_what_it_found(
    pod: Pod, setting: Setting, tmp_path: Path
) -> None:
    setting.apply("ok", "missing", "differs")
    setting.row("ok", "differs", "orphan")
    setting.database.query("UPDATE students SET age = 1 WHERE id LIKE '%%/differs'")
    manifests = build(pod.server, overlay(tmp_path / "overlay", ["audit"]))
    container = container_of(pick(manifests, "CronJob", NAME))
    assert container["command"] == [PROGRAM.name, "audit"]
    before = time.time()
    done = pod.audit(setting.database, "-n", setting.namespace, *container["args"])
    assert (done.returncode, done.stderr) == (1, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = [(line["finding"], line["id"].partition("/")[2], line["level"]) for line in lines if "finding" in line]
    assert found == [
        ("missing", "missing", "WARNING"),
        ("differs", "differs", "WARNING"),
        ("no-resource", "orphan", "WARNING"),
    ]
    assert lines[-1]["message"].startswith("3 findings: 1 missing, 1 differs, 1 no-resource (resources: 3, rows: 3")
    result = stored(pod.server)
    assert result.findings == {"missing": 1, "differs": 1, "no-resource": 1}
    assert (result.resources, result.rows, result.tables) == (3, 3, 1)
    assert before <= result.finished <= time.time()
    assert setting.annotated() == set(), "it repairs only if told to"


def test_applying_the_manifests_again_keeps_the_result(pod: Pod, setting: Setting, tmp_path: Path) -> None:
    setting.apply("ok")
    done = pod.audit(setting.database, "-n", setting.namespace, f"--result-config-map={NAME}")
    assert done.returncode == 1, done.stderr
    before = stored(pod.server)
    folder = overlay(tmp_path / "overlay", ["audit"])
    pod.server.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(folder))
    pod.server.kubectl("apply", "-k", str(folder))
    assert stored(pod.server) == before


def test_the_server_s_metrics_show_what_the_config_map_holds(pod: Pod, setting: Setting, tmp_path: Path) -> None:
    setting.row("orphan")
    pod.audit(setting.database, "-n", setting.namespace, "--table=students", f"--result-config-map={NAME}")
    found = json.loads(pod.server.kubectl("-n", HOME, "get", "configmap", NAME, "-o", "json").stdout)
    # what the kubelet does with the volume
    for name, content in found["data"].items():
        (tmp_path / name).write_text(content)
    with running_server(setting.database, HOOK_AUDIT_RESULT_FILE=str(tmp_path / "result.json")) as server:
        assert scrape(server).total("postgres_writer_audit_findings", finding="no-resource") == 1


def test_the_account_may_read_resources_and_update_its_object_and_nothing_else(installed: ApiServer) -> None:
    verbs = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
    objects = (
        *(PGW, PGR),
        *(f"{PGW}/status", f"{PGR}/status"),
        "configmaps",
        f"configmaps/{NAME}",
        "configmaps/other",
        "secrets",
        "pods",
    )
    granted = {
        (verb, subject)
        for verb in verbs
        for subject in objects
        if installed.kubectl(
            "auth", "can-i", verb, *can_i(subject), "-n", HOME, user=ACCOUNT, check=False
        ).stdout.strip()
        == "yes"
    }
    read = {(verb, kind) for verb in ("get", "list") for kind in (PGW, PGR)}
    assert granted == {*read, ("patch", f"configmaps/{NAME}")}


def can_i(subject: str) -> list[str]:
    kind, _, name = subject.partition("/")
    return [kind, "--subresource=status"] if name == "status" else [subject]


def test_repairing_needs_the_overlay_that_grants_it(pod: Pod, setting: Setting, tmp_path: Path) -> None:
    setting.apply("missing")
    setting.apply_row("missing")
    refused = pod.audit(setting.database, "-n", setting.namespace, "--repair")
    assert refused.returncode == 2
    assert "403" in refused.stderr
    assert "cannot patch" in refused.stderr
    assert setting.annotated() == set()
    folder = overlay(tmp_path / "overlay", ["audit", "audit-repair"])
    container = container_of(pick(build(pod.server, folder), "CronJob", NAME))
    pod.server.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(folder))
    try:
        eventually_allowed(pod.server)
        done = pod.audit(setting.database, "-n", setting.namespace, *container["args"])
        assert done.returncode == 1, done.stderr
        assert setting.annotated() == setting.annotated(PGR) == {"missing"}
    finally:
        pod.server.kubectl(
            "apply", "--server-side", "--force-conflicts", "-k", str(overlay(tmp_path / "plain", ["audit"]))
        )


def eventually_allowed(server: ApiServer) -> None:
    """Wait until the authorizer has seen the changed role."""
    question = ("auth", "can-i", "patch", PGW)
    wait_until(lambda: server.kubectl(*question, user=ACCOUNT, check=False).stdout.strip() == "yes", "it may patch")


def test_pages_and_single_resources_are_those_of_kubectl(pod: Pod, setting: Setting) -> None:
    names = [f"student-{number}" for number in range(25)]
    setting.apply(*names)
    cluster = pod.cluster()
    setting.apply_row("student-3", table="rows")
    pages = list(cluster.pages(setting.namespace, page=10))
    assert [len(items) for items in pages] == [10, 10, 5, 1]
    assert [item["metadata"]["name"] for items in pages[:3] for item in items] == sorted(names)
    for about, table in (
        (f"{setting.namespace}/student-3", "students"),
        (f"row/{setting.namespace}/student-3", "rows"),
    ):
        found = cluster.get(about)
        assert found is not None
        assert found["spec"]["table"] == table
    assert cluster.get(f"row/{setting.namespace}/student-4") is None
    assert cluster.get(f"{setting.namespace}/absent") is None
    assert cluster.get("no-such-namespace/absent") is None
    cluster.close()


def test_a_list_that_expires_is_told_apart_and_begun_again(pod: Pod, setting: Setting) -> None:
    setting.apply(*(f"student-{number}" for number in range(6)))
    cluster = pod.cluster()
    pages = cluster.pages(setting.namespace, page=2)
    assert len(next(pages)) == 2
    setting.kubectl("annotate", PGW, "student-1", "changed=since")
    pod.server.compact()
    pod.server.restart()  # it keeps older states in memory
    with pytest.raises(ListExpired):
        list(pages)
    assert sum(len(items) for items in cluster.pages(setting.namespace, page=2)) == 6
    cluster.close()


def test_the_token_is_read_again_and_the_certificate_is_checked(pod: Pod, setting: Setting, tmp_path: Path) -> None:
    setting.apply("one")
    cluster = pod.cluster()
    good = (pod.folder / "token").read_text()
    (pod.folder / "token").write_text("expired")
    with pytest.raises(AuditError, match="401"):
        cluster.get(f"{setting.namespace}/one")
    (pod.folder / "token").write_text(good)
    assert cluster.get(f"{setting.namespace}/one") is not None
    cluster.close()
    key, other = tmp_path / "key", tmp_path / "other.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", other, "-subj", "/CN=x"],
        check=True,
        capture_output=True,
    )
    (pod.folder / "ca.crt").write_bytes(other.read_bytes())
    done = pod.audit(setting.database, "-n", setting.namespace)
    assert done.returncode == 2
    assert "is not signed by ca.crt" in done.stderr
    assert good not in done.stderr


def test_a_kind_that_is_not_there_is_not_a_resource_that_is_gone(
    pod: Pod, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = "/apis/demo.yash.com/v9/namespaces/{1}/{0.plural}"
    monkeypatch.setattr("postgres_writer.audit.cluster.api_path", elsewhere.format)
    cluster = pod.cluster()
    with pytest.raises(AuditError, match="404"):
        cluster.get(f"{setting.namespace}/anything")
    cluster.close()


def test_the_pod_of_the_job_is_admitted_and_no_service_selects_it(installed: ApiServer, tmp_path: Path) -> None:
    for namespace, components in ((HOME, ["audit"]), ("my-team", ["audit", "audit-repair"])):
        folder = overlay(tmp_path / namespace, components)
        kustomization = folder / "kustomization.yaml"
        if namespace != HOME:
            kustomization.write_text(kustomization.read_text() + f"namespace: {namespace}\n")
        manifests = build(installed, folder)
        job = pick(manifests, "CronJob", NAME)
        template = job["spec"]["jobTemplate"]["spec"]["template"]
        assert job["metadata"]["namespace"] == namespace
        subjects = [
            subject
            for manifest in manifests
            if manifest["kind"] in ("RoleBinding", "ClusterRoleBinding") and manifest["metadata"]["name"] == NAME
            for subject in manifest["subjects"]
        ]
        assert {subject["namespace"] for subject in subjects} == {namespace}
        selector = pick(manifests, "Service")["spec"]["selector"]
        labels = template["metadata"]["labels"]
        assert not selector.items() <= labels.items()
        policy = pick(manifests, "NetworkPolicy", NAME)["spec"]
        assert policy["podSelector"]["matchLabels"].items() <= labels.items()
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert "ingress" not in policy
        metadata = {**template["metadata"], "generateName": "audit-", "namespace": HOME}
        created = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        installed.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(created))
        assert (job["spec"]["concurrencyPolicy"], job["spec"]["jobTemplate"]["spec"]["backoffLimit"]) == ("Forbid", 0)
        assert job["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 3600


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    [container] = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container
