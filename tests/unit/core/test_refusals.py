"""What a refusal of PostgreSQL means for the user; the server's own texts never come through."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postgres_writer.core.refusals import Access, Guard, Key, Refused, explain_delete, explain_write
from postgres_writer.errors import AccessDenied, DeleteFailed, ResourceError, RowRejected, TableNotFound

FULL = Access(found=True)
MISSING = Access(found=False)
DENIED = replace(FULL, writable=False)
COLUMN_DENIED = replace(DENIED, denied=("age", "country"))
KEPT = replace(FULL, deletable=False)
VIEW = replace(FULL, is_table=False)
NO_ID = replace(FULL, key=Key.ABSENT, missing=("id",))
NO_COLUMNS = replace(FULL, missing=("name", "age"))
NUMBERED = replace(FULL, key=Key.TYPE)
DEFERRABLE = replace(FULL, key=Key.DEFERRABLE)
SECURED = replace(FULL, policies=True)
CHECK = Refused("23514", "adults")


@dataclass(frozen=True)
class Case:
    """A sentence, what was refused to which table, and the error that it must lead to."""

    sentence: str
    access: Access
    refused: Refused
    kind: type[ResourceError]
    text: str
    vacate: dict[str, Access] = field(default_factory=dict)


WRITES = (
    Case("a missing table", MISSING, Refused("42P01"), TableNotFound, "Table t does not exist; create it or correct"),
    Case("a table missing in a trigger", FULL, Refused("42P01", inside=True), RowRejected, "a trigger or function"),
    Case("a missing grant", DENIED, Refused("42501"), AccessDenied, "needs SELECT, INSERT, UPDATE and DELETE on it,"),
    Case("a grant missing on columns", COLUMN_DENIED, CHECK, AccessDenied, "DELETE on it (column age, country)"),
    Case("a denial in spite of all grants", FULL, Refused("42501"), RowRejected, "lacks a right that the table's def"),
    Case("a denial inside a trigger", FULL, Refused("42501", inside=True), RowRejected, "a trigger or function"),
    Case("what is no table", VIEW, Refused("55000"), RowRejected, "t is not a table; choose an ordinary or partit"),
    Case("policies", SECURED, Refused("42501"), AccessDenied, "BYPASSRLS or the rights of the table's owner"),
    Case("no column for the id", NO_ID, Refused("42703"), RowRejected, "it has no column id"),
    Case("missing columns", NO_COLUMNS, Refused("42703"), RowRejected, "it has no columns name, age"),
    Case("a column missing in a trigger", FULL, Refused("42703", inside=True), RowRejected, "a trigger or function"),
    Case("an id of another type", NUMBERED, Refused("42883"), RowRejected, "must be a text column"),
    Case("a deferrable key", DEFERRABLE, Refused("55000"), RowRejected, "recreate it as NOT DEFERRABLE"),
    Case("another refusal of a table with a deferrable key", DEFERRABLE, CHECK, RowRejected, "a check constraint"),
    Case("no replica identity", FULL, Refused("55000"), RowRejected, "replica identity"),
    Case("no partition", FULL, Refused("23514"), RowRejected, "it has no partition for the row (SQLSTATE 23514)"),
    Case("a constraint", FULL, CHECK, RowRejected, "Table t rejected the row: a check constraint forbids it (SQLSTATE"),
    Case("a constraint at a move", FULL, CHECK, RowRejected, "from o and p to table t: a ch", {"o": FULL, "p": FULL}),
    Case("an unknown code", FULL, Refused("ZZ999"), RowRejected, "PostgreSQL refused it (SQLSTATE ZZ999)"),
    Case("an unknown code of a known class", FULL, Refused("08ABC"), RowRejected, "unreachable (SQLSTATE 08ABC)"),
    Case("a discarded write", FULL, Refused("22P02", guard=Guard.MISSING), RowRejected, "discards it"),
    Case("a changed write", FULL, Refused("22P02", guard=Guard.ALTERED), RowRejected, "changes its values."),
    Case("a doubled write", FULL, Refused("22P02", guard=Guard.DOUBLE), RowRejected, "more than one row has its id."),
    Case("a row that is kept", FULL, Refused(guard=Guard.KEPT), DeleteFailed, "puts it back or keeps it", {"o": FULL}),
    Case("a grant missing on the old table", FULL, CHECK, AccessDenied, "moved from table o to table t", {"o": KEPT}),
    Case("policies of an old table", FULL, CHECK, AccessDenied, "from table p to", {"o": FULL, "p": SECURED}),
    Case("an old table that is no table any more", FULL, CHECK, RowRejected, "it is not a table", {"o": VIEW}),
    Case("an old table without the id", FULL, CHECK, RowRejected, "no column id. Fix the cause, or set", {"o": NO_ID}),
)


@pytest.mark.parametrize("case", WRITES, ids=lambda case: case.sentence)
def test_explain_write(case: Case) -> None:
    error = explain_write("t", case.access, case.refused, case.vacate)
    assert type(error) is case.kind
    assert case.text in str(error)
    assert str(error).endswith(".")


@pytest.mark.parametrize(
    ("refused", "access", "text"),
    [
        (Refused("23503", "marks_student_fkey"), FULL, "a foreign key forbids it (SQLSTATE 23503, constraint marks_"),
        (Refused("P0001", inside=True), FULL, "raised an error (SQLSTATE P0001)"),
        (Refused("22P02", guard=Guard.KEPT), FULL, "another table or another client puts it back or keeps it."),
        (Refused("22P02", guard=Guard.KIND), VIEW, "it is not a table."),
        (Refused("42501"), KEPT, "needs SELECT and DELETE on it"),
        (Refused("42501"), SECURED, "BYPASSRLS or the rights of the table's owner"),
        (Refused("42703"), NO_ID, "it has no column id."),
        (CHECK, NO_COLUMNS, "a check constraint forbids it"),
    ],
)
def test_a_refused_delete_names_the_cause_and_the_ways_out(refused: Refused, access: Access, text: str) -> None:
    error = explain_delete("t", refused, access)
    assert text in str(error)
    ways_out = ". Fix the cause, or set spec.deletionPolicy to Retain to delete the resource and keep the row."
    assert str(error).endswith(ways_out)


@pytest.mark.parametrize(
    ("access", "barred", "unready"),
    [
        (FULL, False, False),
        (MISSING, False, False),
        (DENIED, True, True),
        (replace(FULL, writable=False, denied=("id",)), True, True),
        (replace(FULL, writable=False, denied=("name",)), False, True),  # but other columns may have been written
        (KEPT, False, False),
        (VIEW, True, False),
        (SECURED, True, False),
        (NO_ID, True, False),
        (NUMBERED, True, False),
        (DEFERRABLE, False, True),
        (replace(FULL, key=Key.MISSING), False, True),
    ],
)
def test_what_cannot_have_been_written(access: Access, barred: bool, unready: bool) -> None:
    assert (access.barred, access.unready) == (barred, unready)


@given(st.text(min_size=1))
def test_only_a_plain_name_of_a_constraint_is_repeated(constraint: str) -> None:
    text = str(explain_write("t", FULL, Refused("23514", constraint), {}))
    named = text.partition("constraint forbids it (SQLSTATE 23514")[2].removesuffix(").")
    plain = len(constraint) <= 63 and constraint.replace("_", "a").replace("$", "a").isalnum()
    assert named == (f", constraint {constraint}" if plain else "")
