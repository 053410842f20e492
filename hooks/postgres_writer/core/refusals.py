"""What a refusal of PostgreSQL means for the user: (table, SQLSTATE, access) -> one of our errors. Pure.

The server's own texts are never repeated, because they may hold values of rows.
https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from postgres_writer.errors import AccessDenied, DeleteFailed, ResourceError, RowRejected, TableNotFound

MISSING_CODES = {"42P01", "3F000"}
"""undefined_table, invalid_schema_name: of the table itself, or of one that a trigger names."""
CANNOT_HOLD_CODES = {"42703", "42883", "22P02", "42809"}
"""Asked for an id, the table has no such column, one of another type, or is not a table: it cannot hold the row."""
# insufficient_privilege: a missing grant and a row that a policy refuses share it
_DENIED_CODE = "42501"
# invalid_column_reference: no unique index fits ON CONFLICT (id)
_NO_KEY_CODE = "42P10"


class Refused(Exception):
    """PostgreSQL refused a statement for a reason that lies in the statement, the table or the row.

    ``code`` is an SQLSTATE, ``guard`` the word of the guard that rolled the message back, or the store's word for a
    statement that went through without its effect.
    """

    def __init__(self, code: str = "", constraint: str = "", guard: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.constraint = constraint
        self.guard = guard


class Key(str, Enum):
    """Whether ON CONFLICT (id) finds a unique constraint."""

    USABLE = "usable"
    DEFERRABLE = "deferrable"
    MISSING = "missing"
    FOREIGN = "foreign"
    """A foreign table can have none."""
    UNKNOWN = "unknown"
    """Of a view it is not known before it is tried."""


@dataclass(frozen=True, slots=True)
class Access:
    """Whether a table exists, and what the role can do with it (which takes SELECT beside the grant itself)."""

    found: bool
    writable: bool
    deletable: bool
    takes_rows: bool
    """Whether rows can be put into it at all, grants aside; also true where there is no table."""
    key: Key = Key.USABLE
    policies: bool = False
    """Whether row-level security applies to the role, so that a row which is not seen may be there all the same."""

    @property
    def barred(self) -> bool:
        """The table is there, but the row cannot have been written to it, whatever was in flight."""
        return self.found and not (self.writable and self.is_target)

    @property
    def is_target(self) -> bool:
        """Whether it is a table or a view to which the row can be written, as far as that is known."""
        return self.takes_rows and self.key is not Key.FOREIGN

    @property
    def undeletable(self) -> bool:
        """The table is there, but the role cannot take the row out of it."""
        return self.found and not self.deletable


_HINTS = {
    _NO_KEY_CODE: "it needs a primary key or unique constraint on id",
    "42703": "it needs the columns id, name, age and country",
    "42804": "its columns id, name and country must be text columns and age an integer",
    "42883": "its columns id, name and country must be text columns and age an integer",
    "22P02": "its columns id, name and country must be text columns and age an integer",
    "42809": "it must be a table",
    "0A000": "a rule, or the kind of the table, does not allow the statement",
    "55000": "it must be a table or an updatable view",
    "21000": "more than one row has its id",
    "22001": "a value is too long for its column",
    "22003": "age is too large for its column",
    "22P05": "the encoding of the database lacks a character of name or country",
    "23502": "a column besides id, name, age and country needs a value",
    "23503": "a foreign key forbids it",
    "23505": "another row has a value that must be unique",
    "23514": "a check constraint forbids it",
    "44000": "the check option of the view forbids it",
    _DENIED_CODE: "row-level security or a trigger forbids it",
}
_GUARD_HINTS = {
    "swallowed": "a trigger, a rule or row-level security swallowed it",
    "altered": "a trigger or a rule changed its values",
    "renamed": "a trigger, or the type of the column id, changed the id",
    "equal": "it has another row whose id the type or collation of the column id treats as equal",
}
_CLASS_HINTS = {
    "08": "a server that the table depends on is unreachable",
    "HV": "its foreign data wrapper failed",
    "58": "PostgreSQL reported an internal error",
    "XX": "PostgreSQL reported an internal error",
}
_DEFERRABLE = "its primary key or unique constraint on id is DEFERRABLE; recreate it as NOT DEFERRABLE"
_HIDDEN = "row-level security, or the condition of a view, may hide it from the PostgresWriter role"
_RETAIN = "set spec.deletionPolicy to Retain to delete the resource and keep the row."


def lacks_key(access: Access, refused: Refused) -> bool:
    """Say whether no row with an id that is certainly unique can be written to the table now."""
    return access.found and (access.key in {Key.MISSING, Key.DEFERRABLE} or refused.code == _NO_KEY_CODE)


def policies_refuse(access: Access, refused: Refused) -> bool:
    """Say whether the write was refused by policies, which no grant of the survey shows."""
    # taken: the unique index has the id, and policies may hide its row
    return access.found and access.policies and (refused.code == _DENIED_CODE or refused.guard == "taken")


def may_hide(access: Access, refused: Refused) -> bool:
    """Say whether policies may hide the row from a question that was refused like this.

    Of a view that cannot be asked for another reason, what it shows is all there is to know.
    """
    return access.policies or refused.code == _DENIED_CODE


def not_found(table: str) -> TableNotFound:
    """Give the error for a table that does not exist."""
    return TableNotFound(
        f"Table {table} does not exist; create it or correct spec.table (case-sensitive). "
        "The row will be written once the table exists."
    )


def explain_write(
    table: str, access: Access, refused: Refused, vacate: Mapping[str, Access], *, listed: bool
) -> ResourceError:
    """Explain a refused write, or move out of the tables ``vacate``; ``listed``: whether the row may be in it."""
    if not access.found:
        return not_found(table)
    if not access.writable:
        return AccessDenied(
            f"The row cannot be written to table {table}: the PostgresWriter role needs SELECT, INSERT, UPDATE and "
            "DELETE on it (and USAGE on its schema). Grant them, or correct spec.table."
        )
    if not access.is_target:
        return RowRejected(f"{table} is not writable: it must be a table or an updatable view.")
    # not written yet, so it is treated like a table without a grant: it must not hold up the deletion
    if not listed and policies_refuse(access, refused):
        return AccessDenied(
            f"The row cannot be written to table {table}: its row-level security does not allow the PostgresWriter "
            "role to write it. Add a policy that does, give the role BYPASSRLS, or correct spec.table."
        )
    return _explain_move(table, refused, vacate) or _explain_rejected(table, access, refused, vacate)


def _explain_move(table: str, refused: Refused, vacate: Mapping[str, Access]) -> ResourceError | None:
    for old, access in vacate.items():
        if access.undeletable:
            return AccessDenied(
                f"The row cannot be moved out of table {old}: the PostgresWriter role needs SELECT and DELETE on it."
            )
        # nothing else hides a row: policies, or the condition of a view, whose key is unknown
        if refused.guard == "unseen" and (access.policies or access.key is Key.UNKNOWN):
            return RowRejected(
                f"The row cannot be moved out of table {old}: {_HIDDEN}. Add a policy that shows "
                "the role its rows, or give it BYPASSRLS."
            )
    if refused.guard == "undeleted":
        return DeleteFailed(
            f"The row could not be moved to table {table}: a trigger, a rule or row-level security keeps it in its old "
            "table."
        )
    return None


def _explain_rejected(table: str, access: Access, refused: Refused, vacate: Mapping[str, Access]) -> RowRejected:
    # the check at run time shares its SQLSTATE with many others
    deferrable = access.key is Key.DEFERRABLE and refused.code == "55000"
    why = _DEFERRABLE if deferrable else _why(refused)
    if vacate:
        # PostgreSQL does not say which statement of the message it refused
        return RowRejected(f"The row could not be moved from {' and '.join(vacate)} to table {table}: {why}.")
    return RowRejected(f"Table {table} rejected the row: {why}.")


def explain_delete(table: str, refused: Refused, access: Access | None = None) -> DeleteFailed:
    """Explain a refused delete of a row that is there, or may be; name the ways out."""
    if access is not None and access.undeletable:
        return DeleteFailed(
            f"The row could not be deleted from table {table}: the PostgresWriter role needs SELECT and DELETE on it. "
            f"Grant them, or {_RETAIN}"
        )
    why = _why(refused)
    return DeleteFailed(f"The row could not be deleted from table {table}: {why}. Fix the cause, or {_RETAIN}")


def explain_hidden(table: str) -> DeleteFailed:
    """Give the error for a row that may exist though it is not visible; name the ways out."""
    return DeleteFailed(
        f"The row could not be deleted from table {table}: {_HIDDEN}. Add a policy that shows the role its rows, "
        f"give it BYPASSRLS, or {_RETAIN}"
    )


def _why(refused: Refused) -> str:
    if refused.guard in _GUARD_HINTS:
        return _GUARD_HINTS[refused.guard]
    code, constraint = refused.code, refused.constraint
    hint = _HINTS.get(code) or _CLASS_HINTS.get(code[:2], "PostgreSQL refused it")
    # The owner of the table chooses the constraint's name, so only a plain name is repeated.
    named = f", constraint {constraint}" if re.fullmatch(r"\w{1,63}", constraint) else ""
    return f"{hint} (SQLSTATE {code}{named})"
