"""What a refusal of PostgreSQL means for the user; the server's own texts never come through."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postgres_writer.core.refusals import (
    CANNOT_HOLD_CODES,
    Access,
    Key,
    Refused,
    explain_delete,
    explain_hidden,
    explain_write,
    lacks_key,
    may_hide,
    policies_refuse,
)
from postgres_writer.errors import AccessDenied, DeleteFailed, ResourceError, RowRejected, TableNotFound

FULL = Access(found=True, writable=True, deletable=True, takes_rows=True)
MISSING = Access(found=False, writable=False, deletable=False, takes_rows=True)
DENIED = Access(found=True, writable=False, deletable=True, takes_rows=True)
KEPT = Access(found=True, writable=True, deletable=False, takes_rows=True)
VIEW = Access(found=True, writable=True, deletable=True, takes_rows=False, key=Key.UNKNOWN)
FOREIGN = Access(found=True, writable=True, deletable=True, takes_rows=True, key=Key.FOREIGN)
DEFERRABLE = Access(found=True, writable=True, deletable=True, takes_rows=True, key=Key.DEFERRABLE)
SECURED = Access(found=True, writable=True, deletable=True, takes_rows=True, policies=True)
CHECK = Refused("23514", "adults")
UNSEEN = Refused("22P02", guard="unseen")


@dataclass(frozen=True)
class Case:
    """A sentence, what was refused to which table, and the error that it must lead to."""

    sentence: str
    access: Access
    refused: Refused
    kind: type[ResourceError]
    text: str
    vacate: dict[str, Access] = field(default_factory=dict)
    listed: bool = True


WRITES = (
    Case("a missing table", MISSING, Refused("42P01"), TableNotFound, "Table t does not exist; create it or correct"),
    Case("a missing schema", MISSING, Refused("3F000"), TableNotFound, "Table t does not exist"),
    Case("a table missing in a trigger", FULL, Refused("42P01"), RowRejected, "(SQLSTATE 42P01)"),
    Case("a missing grant", DENIED, Refused("42501"), AccessDenied, "needs SELECT, INSERT, UPDATE and DELETE on it"),
    Case("a missing grant, whatever was refused first", DENIED, CHECK, AccessDenied, "cannot be written to table t"),
    Case("a denial in spite of all grants", FULL, Refused("42501"), RowRejected, "row-level security"),
    Case("a grant missing on the old table", FULL, Refused("42501"), AccessDenied, "moved out of table o", {"o": KEPT}),
    Case("a constraint", FULL, CHECK, RowRejected, "Table t rejected the row: a check constraint forbids it (SQLSTATE"),
    Case("a constraint at a move", FULL, CHECK, RowRejected, "from o and p to table t: a ch", {"o": FULL, "p": FULL}),
    Case("an unknown code", FULL, Refused("ZZ999"), RowRejected, "PostgreSQL refused it (SQLSTATE ZZ999)"),
    Case("an unknown code of a known class", FULL, Refused("08ABC"), RowRejected, "unreachable (SQLSTATE 08ABC)"),
    Case("a view that takes no rows", VIEW, Refused("55000"), RowRejected, "t is not writable: it must be a table or"),
    Case("a foreign table", FOREIGN, Refused("42P10"), RowRejected, "t is not writable: it must be a table or"),
    Case("a deferrable key", DEFERRABLE, Refused("55000"), RowRejected, "recreate it as NOT DEFERRABLE."),
    Case("another refusal of a table with a deferrable key", DEFERRABLE, CHECK, RowRejected, "a check constraint"),
    Case("a swallowed write", FULL, Refused(guard="swallowed"), RowRejected, "swallowed it."),
    Case("a changed write", FULL, Refused(guard="altered"), RowRejected, "changed its values."),
    Case("a changed id", FULL, Refused("22P02", guard="renamed"), RowRejected, "changed the id."),
    Case("the guard of a write", FULL, Refused("22P02", guard="swallowed"), RowRejected, "swallowed it.", {"o": FULL}),
    Case("the guard of a delete", FULL, Refused("22P02", guard="undeleted"), DeleteFailed, "its old", {"o": FULL}),
    Case(
        "a row hidden in an old table",
        FULL,
        UNSEEN,
        RowRejected,
        "out of table p: row-level",
        {"o": FULL, "p": SECURED},
    ),
    Case("policies at a first write", SECURED, Refused("42501"), AccessDenied, "BYPASSRLS", listed=False),
    Case("policies at a later write", SECURED, Refused("42501"), RowRejected, "row-level security or a trigger"),
)


@pytest.mark.parametrize("case", WRITES, ids=lambda case: case.sentence)
def test_explain_write(case: Case) -> None:
    error = explain_write("t", case.access, case.refused, case.vacate, listed=case.listed)
    assert type(error) is case.kind
    assert case.text in str(error)
    assert str(error).endswith(".")


@pytest.mark.parametrize(
    ("refused", "text"),
    [
        (Refused("23503", "marks_student_fkey"), "a foreign key forbids it (SQLSTATE 23503, constraint marks_"),
        (Refused("P0001"), "(SQLSTATE P0001)"),
        (Refused("08001"), "a server that the table depends on is unreachable (SQLSTATE 08001)"),
        (Refused(guard="swallowed"), "a trigger, a rule or row-level security swallowed it."),
    ],
)
def test_a_refused_delete_names_the_way_out(refused: Refused, text: str) -> None:
    error = explain_delete("t", refused, FULL)
    assert text in str(error)
    assert "deletionPolicy to Retain" in str(error)


def test_a_denied_delete_names_both_ways_out() -> None:
    text = str(explain_delete("t", Refused("42501"), KEPT))
    assert "needs SELECT and DELETE on it" in text
    assert "deletionPolicy to Retain" in text


def test_a_hidden_row_names_the_three_ways_out() -> None:
    text = str(explain_hidden("t"))
    assert all(way in text for way in ("a policy", "BYPASSRLS", "deletionPolicy to Retain"))


@pytest.mark.parametrize(
    ("code", "proof"),
    [("42703", True), ("42883", True), ("22P02", True), ("42809", True), ("42501", False), ("42P01", False)],
)
def test_what_proves_that_the_row_is_not_there(code: str, proof: bool) -> None:
    assert (code in CANNOT_HOLD_CODES) is proof


@pytest.mark.parametrize(
    ("access", "barred", "undeletable"),
    [
        (FULL, False, False),
        (MISSING, False, False),
        (DENIED, True, False),
        (KEPT, False, True),
        (VIEW, True, False),
        (FOREIGN, True, False),
        (DEFERRABLE, False, False),
        (SECURED, False, False),
    ],
)
def test_what_cannot_have_been_written(access: Access, barred: bool, undeletable: bool) -> None:
    assert (access.barred, access.undeletable) == (barred, undeletable)


def test_what_is_no_unique_id() -> None:
    assert lacks_key(DEFERRABLE, CHECK)
    assert lacks_key(FULL, Refused("42P10"))
    assert not lacks_key(FULL, CHECK)
    assert not lacks_key(MISSING, Refused("42P10"))


def test_what_policies_may_hide() -> None:
    assert may_hide(SECURED, CHECK)
    assert may_hide(FULL, Refused("42501"))
    assert not may_hide(FULL, CHECK)


def test_what_policies_refuse() -> None:
    assert policies_refuse(SECURED, Refused("42501"))
    assert policies_refuse(SECURED, Refused("22P02", guard="taken"))
    assert not policies_refuse(SECURED, CHECK)
    assert not policies_refuse(FULL, Refused("42501"))


@given(st.text(min_size=1))
def test_only_a_plain_name_of_a_constraint_is_repeated(constraint: str) -> None:
    text = str(explain_write("t", FULL, Refused("23514", constraint), {}, listed=True))
    named = text.partition("constraint forbids it (SQLSTATE 23514")[2].removesuffix(").")
    plain = len(constraint) <= 63 and constraint.replace("_", "a").isalnum()
    assert named == (f", constraint {constraint}" if plain else "")
