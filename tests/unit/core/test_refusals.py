"""What a refusal of PostgreSQL means for the user; the server's own texts never come through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postgres_writer.core.refusals import Access, Own, Refused, cannot_hold, denied_delete, of_delete, of_write
from postgres_writer.errors import AccessDenied, DeleteFailed, ResourceError, RowRejected, TableNotFound

FULL = Access(found=True, writable=True, deletable=True, takes_rows=True)
MISSING = Access(found=False, writable=False, deletable=False, takes_rows=True)
DENIED = Access(found=True, writable=False, deletable=True, takes_rows=True)
VIEW = Access(found=True, writable=True, deletable=True, takes_rows=False)
CHECK = Refused("23514", "adults")

WRITES: list[tuple[str, Access, Refused, tuple[str, ...], str | None, type[ResourceError], str]] = [
    ("a missing table", MISSING, Refused("42P01"), (), None, TableNotFound, "Table t does not exist; create it"),
    ("a missing schema", MISSING, Refused("3F000"), (), None, TableNotFound, "Table t does not exist"),
    ("a table missing in a trigger", FULL, Refused("42P01"), (), None, RowRejected, "(SQLSTATE 42P01)"),
    ("a missing grant", DENIED, Refused("42501"), (), None, AccessDenied, "grant it SELECT, INSERT, UPDATE and DELETE"),
    ("a missing grant, whatever was refused first", DENIED, CHECK, (), None, AccessDenied, "may not write table t"),
    ("a denial in spite of all grants", FULL, Refused("42501"), (), None, RowRejected, "row-level security"),
    ("a missing grant on the old table", FULL, Refused("42501"), ("o",), "o", AccessDenied, "cannot leave table o"),
    ("a constraint", FULL, CHECK, (), None, RowRejected, "forbids it (SQLSTATE 23514, constraint adults)"),
    ("a constraint at a move", FULL, CHECK, ("o", "p"), None, RowRejected, "cannot move from o and p to table t: a ch"),
    ("an unknown code", FULL, Refused("ZZ999"), (), None, RowRejected, "PostgreSQL refuses it (SQLSTATE ZZ999)"),
    ("a view that takes no rows", VIEW, Refused("55000"), (), None, RowRejected, "t does not take rows"),
    ("a swallowed write", FULL, Refused(Own.SWALLOWED), (), None, RowRejected, "swallowed it."),
    ("a changed write", FULL, Refused(Own.ALTERED), (), None, RowRejected, "changed its values."),
    ("the guard of a write", FULL, Refused("22P02", guard="unwritten"), ("o",), None, RowRejected, "swallowed it."),
    ("the guard of a delete", FULL, Refused("22P02", guard="undeleted"), ("o",), None, DeleteFailed, "in its old"),
]


@pytest.mark.parametrize("case", WRITES, ids=lambda case: case[0])
def test_of_write(case: tuple[str, Access, Refused, tuple[str, ...], str | None, type[ResourceError], str]) -> None:
    _, access, refused, leave, undeletable, kind, text = case
    error = of_write("t", access, refused, leave, undeletable)
    assert type(error) is kind
    assert text in str(error)
    assert str(error).endswith(".")


@pytest.mark.parametrize(
    ("refused", "text"),
    [
        (Refused("23503", "marks_student_fkey"), "a foreign key forbids it (SQLSTATE 23503, constraint marks_"),
        (Refused("P0001"), "(SQLSTATE P0001)"),
        (Refused(Own.SWALLOWED), "a trigger, a rule or row-level security swallowed it;"),
    ],
)
def test_of_delete_names_the_way_out(refused: Refused, text: str) -> None:
    error = of_delete("t", refused)
    assert text in str(error)
    assert "deletionPolicy to Retain" in str(error)


def test_a_denied_delete_names_both_ways_out() -> None:
    text = str(denied_delete("t"))
    assert "grant it SELECT and DELETE" in text
    assert "deletionPolicy to Retain" in text


@pytest.mark.parametrize(
    ("code", "proof"),
    [("42703", True), ("42883", True), ("22P02", True), ("42809", True), ("42501", False), ("42P01", False)],
)
def test_what_proves_that_the_row_is_not_there(code: str, proof: bool) -> None:
    assert cannot_hold(Refused(code)) is proof


@pytest.mark.parametrize(
    ("access", "denied", "undeletable"),
    [
        (FULL, False, False),
        (MISSING, False, False),
        (DENIED, True, False),
        (Access(found=True, writable=True, deletable=False, takes_rows=True), False, True),
    ],
)
def test_a_table_that_is_not_there_denies_nothing(access: Access, denied: bool, undeletable: bool) -> None:
    assert (access.denied, access.undeletable) == (denied, undeletable)


@given(st.text(min_size=1))
def test_only_a_plain_name_of_a_constraint_is_repeated(constraint: str) -> None:
    text = str(of_write("t", FULL, Refused("23514", constraint), (), None))
    named = text.partition("constraint forbids it (SQLSTATE 23514")[2].removesuffix(").")
    plain = len(constraint) <= 63 and constraint.replace("_", "a").isalnum()
    assert named == (f", constraint {constraint}" if plain else "")
