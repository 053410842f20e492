"""The statements as values: names are quoted, values are never in the text, and the prepared form is equivalent."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.sql import Composable, Composed, Identifier, Placeholder

from postgres_writer.core.request import TABLE_PATTERN
from postgres_writer.database import statements

NAMES = st.from_regex(TABLE_PATTERN, fullmatch=True)


def parts(composed: Composable) -> list[Composable]:
    """Return the leaves of a composed statement."""
    if isinstance(composed, Composed):
        return [leaf for part in composed.seq for leaf in parts(part)]
    return [composed]


@given(NAMES)
def test_a_table_is_an_identifier_of_one_or_two_parts(table: str) -> None:
    assert statements.identifier(table).strings == tuple(table.split("."))


@given(NAMES, NAMES)
def test_a_table_stands_in_a_statement_only_as_an_identifier(table: str, old: str) -> None:
    for statement in (
        statements.write(table),
        statements.remove(table),
        statements.present(table),
        statements.move(table, (old,)),
    ):
        leaves = parts(statement.text)
        assert not any(isinstance(leaf, Placeholder) for leaf in leaves)
        named = {leaf.strings for leaf in leaves if isinstance(leaf, Identifier)}
        assert named <= {tuple(table.split(".")), tuple(old.split("."))}
        assert tuple(table.split(".")) in named


@pytest.mark.parametrize(
    ("row", "key"),
    # printf ID | b2sum | cut -c1-16, read as a signed number
    [("default/sample", -195354832941809203), ("kube-system/a.b", -7438757952969108955)],
)
def test_the_key_of_the_lock_of_an_id_never_changes(row: str, key: int) -> None:
    """Releases that run side by side must take the same lock."""
    assert statements.lock_key(row) == key


@given(st.text())
def test_every_id_has_a_key_that_postgresql_takes(row: str) -> None:
    assert -(2**63) <= statements.lock_key(row) < 2**63


def test_the_same_statement_for_the_same_table_is_the_same_object() -> None:
    assert statements.write("students") is statements.write("students")
    assert statements.remove("students") is statements.remove("students")
    assert statements.write("students") is not statements.write("Students")


def test_a_move_deletes_first_and_in_the_order_given() -> None:
    leaves = [
        (leaf.strings, before)
        for before, leaf in zip(
            _texts(statements.move("new", ("a", "b"))), parts(statements.move("new", ("a", "b")).text), strict=True
        )
        if isinstance(leaf, Identifier)
    ]
    changed = [strings for strings, before in leaves if before.endswith(("DELETE FROM ", "INSERT INTO "))]
    assert changed == [("a",), ("b",), ("new",)]


def _texts(statement: statements.Statement) -> list[str]:
    """Return for each leaf the text before it."""
    texts, before = [], ""
    for leaf in parts(statement.text):
        texts.append(before)
        before = getattr(leaf, "string", "")
    return texts


@pytest.mark.parametrize(
    "statement", [statements.write("students"), statements.remove("students")], ids=["write", "remove"]
)
def test_prepared_says_the_same_with_numbers(statement: statements.Statement) -> None:
    text = "".join(getattr(leaf, "string", '"students"') for leaf in parts(statement.text))
    prepare, execute = statements.prepared(text, statement.parameters, "pgw_7")
    types = ", ".join(
        {"age": "integer", "until": "double precision"}.get(name, "text") for name in statement.parameters
    )
    assert prepare.startswith(f"PREPARE pgw_7 ({types}) AS WITH ")
    assert "%" not in prepare
    assert {int(number) for number in re.findall(r"\$(\d+)", prepare)} == set(range(1, len(statement.parameters) + 1))
    assert execute == f"EXECUTE pgw_7 ({', '.join(f'%({name})s' for name in statement.parameters)})"
