"""Two databases behind one hook server, with the real Metacontroller: a row is in the one that its resource names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from postgres_writer.core.row import KINDS, Kind
from support.api_client import ApiError
from support.stack import Stack, Variant, gone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.postgres import Database

NAMESPACE = "databases"
FROZEN = "spec.database can be changed only while"


@pytest.fixture(scope="module", params=["composite", "decorator"])
def archive(
    stack: Stack, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    """Install with a second database, which has two names as while it is renamed: archive and history."""
    folder = tmp_path_factory.mktemp("databases")
    with stack.second_database(folder, "archive", "history") as database:
        stack.install(Variant(request.param), PSQL_DATABASES_DIR=str(folder))
        stack.client.create_namespace(NAMESPACE)
        stack.wait_for_controller()
        yield database
        stack.uninstall()


@pytest.fixture(params=KINDS.values(), ids=list(KINDS))
def kind(stack: Stack, archive: Database, request: pytest.FixtureRequest) -> Iterator[Kind]:
    """Let the client speak of one kind; whatever a failed test left goes with its resources."""
    before, stack.client = stack.client, stack.client.of(request.param)
    yield request.param
    stack.api.kubectl("delete", request.param.plural, "--all", f"--namespace={NAMESPACE}", "--timeout=60s")
    stack.client = before
    assert (ids(stack.database), ids(archive)) == (set(), set())


def ids(database: Database) -> set[str]:
    """Return the ids of the rows of our namespace in the table students."""
    return {row[0] for row in database.rows() if f"{NAMESPACE}/" in row[0]}


def create(stack: Stack, name: str, wanted: str, **spec: str) -> str:
    """Create a resource, wait for its condition and return the id of its row."""
    stack.client.create(stack.client.manifest(NAMESPACE, name, **spec))
    stack.wait_ready(NAMESPACE, name, wanted)
    return stack.key(NAMESPACE, name)


def delete(stack: Stack, name: str) -> None:
    """Delete a resource and wait until it is gone."""
    stack.api.kubectl("delete", stack.client.kind.plural, name, f"--namespace={NAMESPACE}", "--timeout=60s")
    assert gone(stack.client, NAMESPACE, name)


def test_each_row_is_in_the_database_that_its_resource_names_for_good(
    stack: Stack, archive: Database, kind: Kind
) -> None:
    plain = create(stack, "plain", "True/RowSynced@1")
    old = create(stack, "old", "True/RowSynced@1", database="archive")
    assert (ids(stack.database), ids(archive)) == ({plain}, {old})
    listed = stack.api.kubectl("get", kind.plural, f"--namespace={NAMESPACE}", "--output=wide").stdout
    head, *lines = (line.split() for line in listed.splitlines())
    assert "DATABASE" in head
    assert [line[0] for line in lines if "archive" in line] == ["old"]

    stack.client.edit(NAMESPACE, "old", age=99)
    stack.wait_ready(NAMESPACE, "old", "True/RowSynced@2")
    for name, changed in (("old", "history"), ("old", None), ("plain", "archive")):
        with pytest.raises(ApiError, match=FROZEN):
            stack.client.edit(NAMESPACE, name, database=changed)
    assert [row[2] for row in archive.rows()] == [99]

    delete(stack, "old")
    assert (ids(stack.database), ids(archive)) == ({plain}, set())
    delete(stack, "plain")
    assert ids(stack.database) == set()


def test_a_mistyped_name_is_corrected_or_its_resource_deleted(stack: Stack, archive: Database, kind: Kind) -> None:
    create(stack, "misread", "False/DatabaseNotConfigured@1", database="archvie")
    typed = create(stack, "typed", "False/DatabaseNotConfigured@1", database="archvie")
    delete(stack, "misread")
    assert (ids(stack.database), ids(archive)) == (set(), set())
    stack.client.edit(NAMESPACE, "typed", database="archive")
    stack.wait_ready(NAMESPACE, "typed", "True/RowSynced@2")
    assert (ids(stack.database), ids(archive)) == (set(), {typed})
    with pytest.raises(ApiError, match=FROZEN):
        stack.client.edit(NAMESPACE, "typed", database=None)
    delete(stack, "typed")
    assert (ids(stack.database), ids(archive)) == (set(), set()), kind


def test_a_database_gets_another_name_while_its_rows_stay(stack: Stack, archive: Database, kind: Kind) -> None:
    """The way of docs/recipes.md, "Rename or remove a database"."""
    row = create(stack, "renamed", "True/RowSynced@1", database="archive")
    stack.client.edit(NAMESPACE, "renamed", deletionPolicy="Retain")
    delete(stack, "renamed")
    [before] = archive.query("SELECT id, xmin FROM students")
    assert before[0] == row
    create(stack, "renamed", "True/RowSynced@1", database="history")
    assert archive.query("SELECT id, xmin FROM students") == [before], kind
    delete(stack, "renamed")
    assert ids(archive) == set()
