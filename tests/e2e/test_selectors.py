"""Two servers with a database each, and controllers that share the resources by a label, as docs/recipes.md says."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from support.api_client import resource
from support.recipes import selectors
from support.server import running_server
from support.stack import Stack, Variant, gone
from support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.postgres import Database


NAMESPACE = "default"
# The old controller may overwrite the status of the new one, until the next sync of that.
RESYNC_SECONDS = "20"


@contextmanager
def second_server(stack: Stack, kind: str) -> Iterator[Database]:
    """Give the two controllers their selectors and run the second one on a database of its own."""
    database = stack.postgres.maintenance.create_sibling()
    with running_server(database, HOOK_RESYNC_SECONDS=RESYNC_SECONDS) as server:
        for name, url, selector in zip(
            ("postgres-writer", "postgres-writer-archive"), (stack.address, server.url), selectors(), strict=True
        ):
            stack.apply(selecting(stack.controller(url), kind, name, selector))
        yield database
        stack.api.kubectl("delete", "postgreswriters", "--all", f"--namespace={NAMESPACE}", "--timeout=60s")
        stack.api.kubectl("delete", f"{kind}controllers.metacontroller.k8s.io", "postgres-writer-archive")


def selecting(controller: dict[str, Any], kind: str, name: str, selector: dict[str, Any]) -> dict[str, Any]:
    controller["metadata"]["name"] = name
    spec = controller["spec"]
    rule = spec["parentResource"] if kind == "composite" else spec["resources"][0]
    rule["labelSelector"] = selector
    return controller


@pytest.mark.parametrize("kind", ["composite", "decorator"])
def test_a_changed_label_moves_the_care_and_leaves_the_old_row(stack: Stack, kind: str) -> None:
    stack.install(Variant(kind), HOOK_RESYNC_SECONDS=RESYNC_SECONDS)
    with second_server(stack, kind) as archive:
        labelled = resource(NAMESPACE, "moved")
        labelled["metadata"]["labels"] = {"database": "archive"}
        for manifest in (resource(NAMESPACE, "plain"), labelled):
            stack.client.create(manifest)
            stack.wait_ready(NAMESPACE, manifest["metadata"]["name"], "True/RowSynced@1")
        assert ids(stack.database) == {f"{NAMESPACE}/plain"}
        assert ids(archive) == {f"{NAMESPACE}/moved"}

        stack.api.kubectl("label", "postgreswriter", "moved", "database-", f"--namespace={NAMESPACE}")
        wait_until(lambda: f"{NAMESPACE}/moved" in ids(stack.database), "the row in the other database")
        finalizer = f"metacontroller.io/{kind}controller-postgres-writer"
        wait_until(lambda: finalizers(stack, "moved") == [finalizer], "the old controller's finalizer to go")
        stack.wait_ready(NAMESPACE, "moved", "True/RowSynced@1", timeout=60)
        assert ids(archive) == {f"{NAMESPACE}/moved"}  # left behind, as the recipe says

        stack.api.kubectl("delete", "postgreswriter", "moved", f"--namespace={NAMESPACE}", "--timeout=60s")
        assert gone(stack.client, NAMESPACE, "moved")
        assert ids(stack.database) == {f"{NAMESPACE}/plain"}
        assert ids(archive) == {f"{NAMESPACE}/moved"}
    stack.uninstall()


def ids(database: Database) -> set[str]:
    """Return the ids of the rows of the table students."""
    return {str(row[0]) for row in database.query("SELECT id FROM students")}


def finalizers(stack: Stack, name: str) -> list[str]:
    """Return the finalizers of a resource."""
    found = stack.client.get(NAMESPACE, name)
    return list(found["metadata"].get("finalizers", [])) if found else []
