"""Both kinds become Ready through what one `helm install` of the released package makes, with the token in it.

After an uninstall in the wrong order the same install completes the deletion, as docs/helm.md says.

No kubelet runs pods here: the Metacontroller at work has the flags of the one that the package installs.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from postgres_writer.core.row import KINDS
from support.helm import Helm
from support.manifests import COMPOSITE, DECORATOR, K8S
from support.metacontroller import TUNED_FLAGS
from support.server import ServerProcess, serving
from support.stack import Stack, Variant
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "postgres-writer"
"""Of the release and of its namespace."""
WHERE = f"--namespace={NAME}"
CASES = [
    pytest.param((4, Variant("composite")), marks=pytest.mark.short, id="helm-4-composite"),
    pytest.param((3, Variant("decorator")), id="helm-3-decorator"),
]


def towards(address: str) -> list[dict[str, Any]]:
    """Return the value `patches` with which Metacontroller calls an address: no Service leads to the server here."""
    operations = [
        operation
        for hook in ("sync", "finalize")
        for operation in (
            {"op": "remove", "path": f"/spec/hooks/{hook}/webhook/service"},
            {"op": "add", "path": f"/spec/hooks/{hook}/webhook/url", "value": f"{address}/{hook}"},
        )
    ]
    return [{"target": {"group": "metacontroller.k8s.io"}, "patch": json.dumps(operations)}]


@dataclass
class Release:
    """A release of the package, with the Metacontroller and the hook server that its pods would be."""

    stack: Stack
    helm: Helm
    package: str
    values: str

    def install(self) -> None:
        """Run the same `helm install` each time; the definitions are there without it."""
        flags = ("--take-ownership", "--skip-crds")
        self.helm.run("install", NAME, self.package, WHERE, f"--values={self.values}", *flags)

    def uninstall(self) -> None:
        """Run `helm uninstall`."""
        self.helm.run("uninstall", NAME, WHERE)


@pytest.fixture
def released(stack: Stack, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Release]:
    """Install the package over the definitions that are there, run a hook server, and remove it afterwards."""
    major, stack.variant = request.param
    helm = Helm(major, tmp_path, stack.api.kubeconfig)
    tokens = tmp_path / "tokens"
    server = ServerProcess(stack.hook_environment() | {"HOOK_TOKENS_FILE": str(tokens)})
    components = ["decorator"] if stack.variant.kind == "decorator" else []
    enabled = {"enabled": True}
    values = helm.values(components=components, patches=towards(server.url), metacontroller=enabled)
    stack.api.kubectl("apply", "--filename", str(K8S / "base" / "namespace.yaml"))
    release = Release(stack, helm, str(helm.package(tmp_path)), values)
    release.install()
    secret = json.loads(stack.api.kubectl("get", "secret", f"{NAME}-hook-tokens", WHERE, "--output=json").stdout)
    tokens.write_bytes(base64.b64decode(secret["data"]["tokens"]))
    with serving(server):
        yield release
        for kind in KINDS.values():
            stack.api.kubectl("delete", kind.plural, "--all", "--all-namespaces", "--timeout=60s")
        release.uninstall()
        stack.remove_controller(stack.variant.kind)


@pytest.mark.parametrize("released", CASES, indirect=True)
def test_both_kinds_become_ready_and_leave_with_their_rows(released: Release) -> None:
    stack = released.stack
    clients = [stack.client.of(kind) for kind in KINDS.values()]
    found = json.loads(stack.api.kubectl("get", "statefulset", "metacontroller", WHERE, "--output=json").stdout)
    (container,) = found["spec"]["template"]["spec"]["containers"]
    assert set(TUNED_FLAGS) < set(container["args"])

    def born() -> list[list[str] | None]:
        return [client.finalizers_at_birth(client.manifest("default", "probe")) for client in clients]

    finalizers = [[DECORATOR]] * 2 if stack.variant.kind == "decorator" else [[COMPOSITE], [f"{COMPOSITE}-row"]]
    wait_until(lambda: born() == finalizers, "the policies that the chart adds on this cluster")
    for client in clients:
        client.create(client.manifest("default", "charted"))
        stack.api.kubectl("wait", "--for=condition=Ready", "--timeout=60s", f"{client.kind.plural}/charted")
    wanted = [f"{client.kind.prefix}default/charted" for client in clients]
    assert sorted(row[0] for row in stack.database.rows()) == sorted(wanted)
    released.uninstall()
    stack.metacontroller.stop()
    try:
        for client in clients:
            stack.api.kubectl("delete", "--wait=false", f"{client.kind.plural}/charted")
        released.install()
    finally:
        stack.metacontroller.start()
    for client in clients:
        stack.api.kubectl("wait", "--for=delete", "--timeout=60s", f"{client.kind.plural}/charted")
    assert stack.database.rows() == []
