"""What a refusal of PostgreSQL means for the user: (table, SQLSTATE, grants) -> one of our errors. Pure.

The server's own texts are never repeated, because they may hold values of rows.
https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from postgres_writer.errors import AccessDenied, DeleteFailed, ResourceError, RowRejected, TableNotFound

MISSING_CODES = {"42P01", "3F000"}
"""undefined_table, invalid_schema_name: of the table itself, or of one that a trigger names."""
_CANNOT_HOLD_CODES = {"42703", "42883", "22P02", "42809"}
"""Asked for an id, the table has no such column, one of another type, or is no table: it cannot hold the row."""


class Own(str, Enum):
    """Refusals that carry no SQLSTATE: the statement went through, but not its effect."""

    SWALLOWED = "swallowed"
    ALTERED = "altered"
    RENAMED = "renamed"
    EQUAL = "equal"


class Refused(Exception):
    """PostgreSQL refused a statement for a reason that lies in the statement, the table or the row.

    ``code`` is an SQLSTATE or one of Own, ``guard`` the word of the guard that rolled the message back.
    """

    def __init__(self, code: str, constraint: str = "", guard: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.constraint = constraint
        self.guard = guard

    @property
    def effect(self) -> Own | None:
        """What became of the row, when the statement went through but not its effect."""
        if isinstance(self.code, Own):
            return self.code
        return {"unwritten": Own.SWALLOWED, "renamed": Own.RENAMED}.get(self.guard)


@dataclass(frozen=True, slots=True)
class Access:
    """Whether a table exists, and what the role may do with it (which takes SELECT beside the grant itself)."""

    found: bool
    writable: bool
    deletable: bool
    takes_rows: bool
    """Whether rows can be put into it at all, grants aside; also true where there is no table."""

    @property
    def denied(self) -> bool:
        """The table is there, but the role cannot have written the row to it."""
        return self.found and not self.writable

    @property
    def undeletable(self) -> bool:
        """The table is there, but the role cannot take the row out of it."""
        return self.found and not self.deletable


_HINTS = {
    "42P10": "it needs a primary key or unique constraint on id",
    "42703": "it needs the columns id, name, age and country",
    "42804": "its columns id, name and country must be texts and age an integer",
    "42883": "its columns id, name and country must be texts and age an integer",
    "22P02": "its columns id, name and country must be texts and age an integer",
    "42809": "it must be a table",
    "55000": "it must be a table or an updatable view",
    "22001": "a value is too long for its column",
    "22003": "age is too large for its column",
    "22P05": "the encoding of the database lacks a character of name or country",
    "23502": "a column besides id, name, age and country needs a value",
    "23503": "a foreign key forbids it",
    "23505": "another row has a value that must be unique",
    "23514": "a check constraint forbids it",
    "42501": "row-level security or a trigger forbids it",
    Own.SWALLOWED: "a trigger, a rule or row-level security swallowed it",
    Own.ALTERED: "a trigger or a rule changed its values",
    Own.RENAMED: "a trigger, or the type of the column id, changed the id",
    Own.EQUAL: "it has another row whose id the type or collation of the column id treats as equal",
}
_CLASS_HINTS = {
    "08": "a server that the table depends on is unreachable",
    "HV": "its foreign data wrapper failed",
    "58": "PostgreSQL reported an internal error",
    "XX": "PostgreSQL reported an internal error",
}


def cannot_hold(refused: Refused) -> bool:
    """Say whether a question for the row's id, refused like this, proves that the row is not there."""
    return refused.code in _CANNOT_HOLD_CODES


def not_found(table: str) -> TableNotFound:
    """Say that the table has to be made."""
    return TableNotFound(
        f"Table {table} does not exist; create it, or correct spec.table (its case counts). "
        "The row is written as soon as the table is there."
    )


def denied_write(table: str) -> AccessDenied:
    """Say which grants are missing."""
    return AccessDenied(
        f"The database role of PostgresWriter may not write table {table}; "
        "grant it SELECT, INSERT, UPDATE and DELETE (and USAGE on the schema), or correct spec.table."
    )


def denied_move(table: str) -> AccessDenied:
    """Say that the row cannot leave its old table."""
    return AccessDenied(
        f"The row cannot leave table {table}, because the database role of PostgresWriter may not read it and "
        "delete from it; grant it SELECT and DELETE there."
    )


def denied_delete(table: str) -> DeleteFailed:
    """Name the two ways out of a deletion for which a grant is missing."""
    return DeleteFailed(
        f"The database role of PostgresWriter may not delete from table {table}; grant it SELECT and DELETE there, "
        "or set spec.deletionPolicy to Retain to let the resource go and keep the row."
    )


def of_write(
    table: str, access: Access, refused: Refused, leave: tuple[str, ...], undeletable: str | None
) -> ResourceError:
    """Explain a refused write, or move out of ``leave``; ``undeletable`` of these may not be deleted from."""
    if not access.found:
        return not_found(table)
    if not access.writable:
        return denied_write(table)
    if undeletable is not None:
        return denied_move(undeletable)
    if refused.guard == "undeleted":
        return DeleteFailed(
            f"The row cannot move to table {table}: a trigger, a rule or row-level security keeps it in its old table."
        )
    why = _why(refused.effect or refused.code, refused.constraint)
    text = f"Table {table} does not take the row: {why}."
    if not access.takes_rows:
        text = f"{table} does not take rows: it must be a table or an updatable view."
    elif leave:
        # PostgreSQL does not say which statement of the message it refused
        text = f"The row cannot move from {' and '.join(leave)} to table {table}: {why}."
    return RowRejected(text)


def of_delete(table: str, refused: Refused) -> DeleteFailed:
    """Explain a refused delete of a row that is there."""
    return DeleteFailed(
        f"Table {table} does not let the row go: {_why(refused.code, refused.constraint)}; mend it, "
        "or set spec.deletionPolicy to Retain to let the resource go and keep the row."
    )


def _why(code: str, constraint: str) -> str:
    hint = _HINTS.get(code) or _CLASS_HINTS.get(code[:2], "PostgreSQL refuses it")
    if isinstance(code, Own):
        return hint
    # The name of a constraint is chosen by whoever made the table; anything but a plain name stays out.
    named = f", constraint {constraint}" if re.fullmatch(r"\w{1,63}", constraint) else ""
    return f"{hint} (SQLSTATE {code}{named})"
