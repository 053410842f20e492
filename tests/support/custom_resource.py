"""What the tests do to PostgresWriters and PostgresRows with kubectl."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from postgres_writer.core.row import GROUP, POSTGRES_WRITER, Kind
from support.spec_cases import SpecCase, spec_with

if TYPE_CHECKING:
    import subprocess

    from support.apiserver import ApiServer

KIND: Final = "postgreswriters.demo.yash.com"
"""In full, because the short name came with this CRD."""
PENDING: Final[dict[str, Any]] = {
    "observedGeneration": -1,
    "conditions": [
        {
            "type": "Ready",
            "status": "Unknown",
            "reason": "Pending",
            "message": "Waiting for the controller.",
        }
    ],
}
"""The status with which every resource is born."""


class Resource:
    """One resource of one namespace; every method is one kubectl call of the administrator."""

    def __init__(self, server: ApiServer, namespace: str, name: str = "sample", kind: Kind = POSTGRES_WRITER) -> None:
        self.server = server
        self.namespace = namespace
        self.name = name
        self.kind = kind
        self.resource = f"{kind.plural}.{GROUP}"

    def kubectl(
        self, *arguments: str, input: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Call kubectl in the resource's namespace."""
        return self.server.kubectl("--namespace", self.namespace, *arguments, input=input, check=check)

    def create(self, spec: object = None, **metadata: object) -> None:
        """Create it, from the sample's spec if none is given (`ABSENT` for none at all)."""
        manifest = self.manifest(spec_with() if spec is None else spec, **metadata)
        self.kubectl("create", "--validate=strict", "--filename=-", input=json.dumps(manifest))

    def manifest(self, spec: object, **metadata: object) -> dict[str, Any]:
        """Return what a user writes to create it."""
        manifest = SpecCase("", spec).manifest(self.name, self.namespace)
        manifest |= {"apiVersion": f"{GROUP}/{self.kind.version}", "kind": self.kind.name}
        manifest["metadata"].update(metadata)
        return manifest

    def get(self) -> dict[str, Any]:
        """Read it."""
        found: dict[str, Any] = json.loads(self.kubectl("get", self.resource, self.name, "--output=json").stdout)
        return found

    def patch(self, change: dict[str, Any], *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Merge the change into it; `--subresource=status` as an option for its status."""
        content = json.dumps(change)
        return self.kubectl(
            "patch", self.resource, self.name, "--type=merge", "--patch", content, *options, check=check
        )

    def patch_spec(self, check: bool = True, **fields: object) -> subprocess.CompletedProcess[str]:
        """Change fields of the spec, None takes a field away."""
        return self.patch({"spec": fields}, check=check)

    def record(self, table: str) -> None:
        """Write what the hook server records once it has seen spec.table."""
        self.patch({"status": {"observedTable": table}}, "--subresource=status")

    def gone(self) -> bool:
        """Say whether it does not exist."""
        return "NotFound" in self.kubectl("get", self.resource, self.name, check=False).stderr


def condition(status: str, reason: str, message: str = "A sentence.", kind: str = "Ready") -> dict[str, Any]:
    """Return a condition as the hook server writes it."""
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": 1,
        "lastTransitionTime": "2024-01-02T03:04:05Z",
    }
