"""`k8s/finalizers.sh hold` changes only the finalizers, however kubectl made and changed the resources."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.installation import RESOURCE, ROWS, Installation
from postgres_writer.core.row import KINDS
from support.api_client import resource
from support.manifests import COMPOSITE, HOLD, shell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.apiserver import ApiServer

SECOND = {"labels": {"team": "a"}, "annotations": {"example.com/note": "mine"}}
"""What the second command adds, with deletionPolicy: Retain."""


@dataclass
class User:
    """What one user does with kubectl to one resource of each kind, of the same name."""

    server: ApiServer
    name: str
    folder: Path

    def first(self, *arguments: str, **metadata: Any) -> None:
        """Give kubectl the manifests on its standard input."""
        self._give(arguments, {}, metadata)

    def second(self, *arguments: str) -> None:
        """Give kubectl the manifests with a label, an annotation and Retain."""
        self._give(arguments, {"deletionPolicy": "Retain"}, SECOND)

    def patch(self, kind: str) -> None:
        """Make the same change with `kubectl patch`, as a merge or a JSON patch."""
        change: Any = {"metadata": SECOND, "spec": {"deletionPolicy": "Retain"}}
        if kind == "json":
            change = [
                *({"op": "add", "path": f"/metadata/{key}", "value": value} for key, value in SECOND.items()),
                {"op": "add", "path": "/spec/deletionPolicy", "value": "Retain"},
            ]
        self.server.kubectl("patch", *self._targets(), f"--type={kind}", "-p", json.dumps(change))

    def edit(self) -> None:
        """Make the same change with `kubectl edit`; the editor is a command, as the user's would be."""
        label = r"s/^( *)metadata:$/&\n\1  labels: {team: a}/"
        note = r"s/^( *)annotations:$/&\n\1  example.com\/note: mine/"
        editor = self.folder / "editor"
        policy = "s/deletionPolicy: Delete/deletionPolicy: Retain/"
        editor.write_text(f"#!/bin/sh\nsed -E -i -e '{label}' -e '{note}' -e '{policy}' \"$1\"\n")
        editor.chmod(0o755)
        shell(self.server, f"kubectl edit {' '.join(self._targets())}", KUBE_EDITOR=str(editor))

    def label(self) -> None:
        """Make the same change with a command for each part."""
        self.server.kubectl("label", *self._targets(), "team=a")
        self.server.kubectl("annotate", *self._targets(), "example.com/note=mine")
        patch = json.dumps({"spec": {"deletionPolicy": "Retain"}})
        self.server.kubectl("patch", *self._targets(), "--type=merge", "-p", patch)

    def _targets(self) -> list[str]:
        return [f"{kind.plural}/{self.name}" for kind in KINDS.values()]

    def _give(self, arguments: tuple[str, ...], spec: dict[str, Any], metadata: dict[str, Any]) -> None:
        items = [resource("default", self.name, kind, **spec) for kind in KINDS.values()]
        for item in items:
            item["metadata"] |= metadata
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        self.server.kubectl(*arguments, "-f", "-", input=text)


APPLY, SERVER_SIDE, FORCE = ("apply",), ("apply", "--server-side"), "--force-conflicts"
WAYS: dict[str, tuple[Callable[[User], None], Callable[[User], None]]] = {
    "create-apply": (lambda user: user.first("create"), lambda user: user.second(*APPLY)),
    "create-saved-apply": (lambda user: user.first("create", "--save-config"), lambda user: user.second(*APPLY)),
    "create-server-side": (lambda user: user.first("create"), lambda user: user.second(*SERVER_SIDE, FORCE)),
    "create-patch": (lambda user: user.first("create"), lambda user: user.patch("merge")),
    "create-json-patch": (lambda user: user.first("create"), lambda user: user.patch("json")),
    "create-edit": (lambda user: user.first("create", "--save-config"), lambda user: user.edit()),
    "create-label": (lambda user: user.first("create"), lambda user: user.label()),
    "create-replace": (lambda user: user.first("create"), lambda user: user.second("replace")),
    "apply-apply": (lambda user: user.first(*APPLY), lambda user: user.second(*APPLY)),
    "apply-edit": (lambda user: user.first(*APPLY), lambda user: user.edit()),
    "apply-server-side": (lambda user: user.first(*APPLY), lambda user: user.second(*SERVER_SIDE, FORCE)),
    "server-side-twice": (lambda user: user.first(*SERVER_SIDE), lambda user: user.second(*SERVER_SIDE)),
    "server-side-apply": (lambda user: user.first(*SERVER_SIDE), lambda user: user.second(*APPLY)),
    "own-finalizer": (
        lambda user: user.first(*APPLY, finalizers=["a.example.com/x", COMPOSITE]),
        lambda user: user.patch("merge"),
    ),
    "create-all-patch": (lambda user: user.first("create", **SECOND), lambda user: user.patch("merge")),
}
"""How a resource is made, and how it gets the label, the annotation and Retain."""


def fields(installation: Installation) -> dict[str, Any]:
    """Return what the user wrote of every resource, without what the API server counts."""
    found = {}
    for kind in (RESOURCE, ROWS):
        listed = json.loads(installation.cluster.kubectl("get", kind, "-o", "json").stdout)
        for item in listed["items"]:
            for key in ("resourceVersion", "finalizers"):
                item["metadata"].pop(key, None)
            found[f"{kind}/{item['metadata']['name']}"] = item
    return found


def finalizers(installation: Installation) -> list[tuple[str, ...]]:
    """Return the different lists of finalizers that there are."""
    every = [installation.finalizers(kind).values() for kind in (RESOURCE, ROWS)]
    return sorted({tuple(one) for some in every for one in some})


def test_a_hold_takes_nothing_that_a_user_wrote(installation: Installation, tmp_path: Path) -> None:
    for way, (first, second) in WAYS.items():
        user = User(installation.cluster, way, tmp_path)
        first(user)
        second(user)
    before = fields(installation)
    assert len(before) == len(WAYS) * len(KINDS)
    for item in before.values():
        assert item["metadata"]["labels"] == SECOND["labels"]
        assert item["metadata"]["annotations"].items() >= SECOND["annotations"].items()
        assert item["spec"]["deletionPolicy"] == "Retain"

    own = ("a.example.com/x", COMPOSITE)
    for _ in range(2):
        for _ in range(2):
            shell(installation.cluster, "k8s/finalizers.sh hold")
            assert fields(installation) == before
            assert finalizers(installation) == [(*own, HOLD), (HOLD,)]
        shell(installation.cluster, f"k8s/finalizers.sh remove {HOLD}")
        assert fields(installation) == before
        assert finalizers(installation) == [(), own]


def test_a_user_who_applies_again_does_not_end_a_hold(installation: Installation, tmp_path: Path) -> None:
    users = {command: User(installation.cluster, command[-1].strip("-"), tmp_path) for command in (APPLY, SERVER_SIDE)}
    for command, user in users.items():
        user.first(*command)
    shell(installation.cluster, "k8s/finalizers.sh hold")
    for command, user in users.items():
        user.second(*command)
    assert finalizers(installation) == [(HOLD,)]
    assert {item["spec"]["deletionPolicy"] for item in fields(installation).values()} == {"Retain"}
