"""What a refusal of PostgreSQL means for the user: (table, SQLSTATE, access) -> one of our errors. Pure.

The server's own texts are never repeated, because they may hold values of rows.
https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from postgres_writer.errors import AccessDenied, DeleteFailed, ResourceError, RowRejected, TableNotFound

_DENIED_CODE = "42501"  # insufficient_privilege: a missing grant and a row that a policy refuses share it


class Guard(str, Enum):
    """What a message found not to be as it must be, for which it failed and was rolled back."""

    READ_ONLY = "readonly"  # the server does not write
    BUSY = "busy"  # another transaction holds the lock of the id
    LATE = "late"  # the deadline has passed
    KIND = "kind"  # it is neither an ordinary nor a partitioned table
    MISSING = "missing"  # the row is not there
    DOUBLE = "double"  # more than one row has the id
    ALTERED = "altered"  # the row has other values
    KEPT = "kept"  # the row is still in a table from which it was deleted


@dataclass(eq=False)
class Refused(Exception):
    """PostgreSQL refused a statement for a reason that lies in the statement, the table or the row.

    ``code`` is an SQLSTATE, ``guard`` the guard that rolled the message back, ``constraint`` and ``column`` what the
    error names; ``inside``: it was raised by a trigger, a function or another table's constraint.
    """

    code: str = ""
    constraint: str = ""
    guard: Guard | None = None
    column: str = ""
    inside: bool = False


class Key(str, Enum):
    """Whether ON CONFLICT finds a unique constraint on the id."""

    USABLE = "usable"
    DEFERRABLE = "deferrable"
    MISSING = "missing"
    ABSENT = "absent"  # there is no such column
    TYPE = "type"  # the column is of no string type, so no id fits into it


@dataclass(frozen=True, slots=True)
class Access:
    """Whether a relation of that schema and name exists, and what the role can do with it."""

    found: bool
    is_table: bool = True  # whether it is an ordinary or a partitioned table
    writable: bool = True  # whether the role has SELECT, INSERT and UPDATE on the columns, and USAGE on the schema
    deletable: bool = True  # whether the role has DELETE, and SELECT on the id, without which a DELETE cannot find it
    key: Key = Key.USABLE
    policies: bool = False
    """Whether row-level security applies to the role, so that a row which is not seen may be there all the same."""
    missing: tuple[str, ...] = ()  # the columns that the table lacks
    denied: tuple[str, ...] = ()  # the columns on which a grant is missing
    id_column: str = "id"
    role: str = "of PostgresWriter"
    database: str = ""
    similar: str = ""  # where it was not found: a table whose name differs only in case

    @property
    def barred(self) -> bool:
        """It is there, but the row cannot have been written to it, whatever was in flight, and of whatever columns."""
        granted = self.writable or (self.denied and self.id_column not in self.denied)
        usable = self.is_table and granted and self.key not in {Key.TYPE, Key.ABSENT} and not self.policies
        return self.found and not usable

    @property
    def unready(self) -> bool:
        """It is there, but no first write of these columns can succeed as it is."""
        return self.found and (not self.writable or self.key in {Key.MISSING, Key.DEFERRABLE})


_HINTS = {
    "42804": "its columns must be able to hold a text, a text, a whole number and a text",
    "0A000": "a rule, or the kind of the table, does not allow the statement",
    "55000": "it publishes changes without a replica identity (ALTER TABLE ... REPLICA IDENTITY sets one)",
    "21000": "more than one row has its id",
    "22P02": "a value does not have the form that the type of its column needs",
    "22001": "a value is too long for its column",
    "22003": "a number is too large for its column",
    "22P05": "the encoding of the database lacks a character of a value",
    "428C9": "a column is generated and takes no value",
    "23502": "a column needs a value that spec does not give",
    "23503": "a foreign key forbids it",
    "23505": "another row has a value that must be unique",
    "23514": "a check constraint forbids it",
    _DENIED_CODE: "the role {role} lacks a right that the table's defaults or constraints need",
}
_GUARD_HINTS = {
    Guard.MISSING: "a trigger or a rule discards it or changes its id, or the type or collation of the column for the "
    "id treats another row's id as equal",
    Guard.DOUBLE: "more than one row has its id",
    Guard.ALTERED: "a trigger, a rule or another client changes its values",
    Guard.KEPT: "a trigger, a rule, another table or another client puts it back or keeps it",
}
_CLASS_HINTS = {
    "08": "a server that the table depends on is unreachable",
    "HV": "its foreign data wrapper failed",
    "58": "PostgreSQL reported an internal error",
    "XX": "PostgreSQL reported an internal error",
}
_KEY_HINTS = {
    Key.TYPE: "its column for the id must be a text column",
    Key.MISSING: "it needs a primary key or unique constraint on its column for the id alone",
    Key.DEFERRABLE: "its primary key or unique constraint on the id is DEFERRABLE; recreate it as NOT DEFERRABLE",
}
_SEE_ALL = (
    "its row-level security applies to the role {}, which then cannot see whether the row is there. Give "
    "the role BYPASSRLS or the rights of the table's owner (GRANT owner TO role; not with FORCE ROW LEVEL SECURITY)"
)
_RETAIN = "set spec.deletionPolicy to Retain to delete the resource and keep the row."


def needs_column(refused: Refused, access: Access) -> bool:
    """Say whether the value of a column was refused without a word of which."""
    # bad values: data exceptions, NULL and CHECK of a domain, and hstore's internal error
    about_value = refused.code[:2] == "22" or refused.code in {"23502", "23514", "XX000"}
    told = refused.inside or refused.guard or refused.column or access.missing
    return about_value and access.found and access.writable and not told


def explain_write(table: str, access: Access, refused: Refused, vacate: Mapping[str, Access]) -> ResourceError:
    """Explain a refused write, or move out of the tables ``vacate``."""
    if not access.found:
        where = f" in database {access.database}" if access.database else ""
        instead = f", but {access.similar} does" if access.similar else ""
        return TableNotFound(
            f"Table {table} does not exist{where}{instead}; create it or correct spec.table (case-sensitive). "
            "The row will be written once the table exists."
        )
    if not access.is_table:
        return RowRejected(f"{table} is not a table; choose an ordinary or partitioned table in spec.table.")
    if not access.writable:
        columns = f" (column {', '.join(access.denied)})" if access.denied else ""
        return AccessDenied(
            f"The row cannot be written to table {table}: the role {access.role} needs SELECT, INSERT, UPDATE and "
            f"DELETE on it{columns}, and USAGE on its schema. Grant them, or correct spec.table."
        )
    if access.policies:
        hidden = _SEE_ALL.format(access.role)
        return AccessDenied(f"The row cannot be written to table {table}: {hidden}, or correct spec.table.")
    for old, its in vacate.items():
        # PostgreSQL does not say which statement of the message it refused
        if hindrance := _hindrance(its):
            refusal = RowRejected if its.deletable and not its.policies else AccessDenied
            return refusal(
                f"The row cannot be moved from table {old} to table {table}: {hindrance}. Fix the cause, or set "
                f"spec.table back to {old}."
            )
    moved = f"The row could not be moved from {' and '.join(vacate)} to table {table}" if vacate else ""
    why = f"{moved or f'Table {table} rejected the row'}: {_why(refused, access)}."
    return DeleteFailed(why) if refused.guard is Guard.KEPT else RowRejected(why)


def explain_delete(table: str, refused: Refused, access: Access) -> DeleteFailed:
    """Explain a refused delete of a row that is there, or may be; name the ways out."""
    # the other columns take no part
    why = _hindrance(access) or _why(refused, replace(access, missing=()))
    return DeleteFailed(f"The row could not be deleted from table {table}: {why}. Fix the cause, or {_RETAIN}")


def _hindrance(access: Access) -> str:
    """Say what keeps the server from deleting the row of a table, or from seeing that it is not there."""
    if not access.is_table:
        return "it is not a table"
    if access.key is Key.ABSENT:
        return f"it has no column {access.id_column}"
    if access.policies:
        return _SEE_ALL.format(access.role)
    if not access.deletable:
        return f"the role {access.role} needs SELECT and DELETE on it, and USAGE on its schema"
    return ""


def _why(refused: Refused, access: Access) -> str:
    if refused.guard in _GUARD_HINTS:
        return _GUARD_HINTS[refused.guard]
    # what the catalogue shows is said the same before and after it was tried
    if (lack := _lack(access, refused.code)) and not refused.inside:
        return lack
    # The owner of the table chooses the names, so only a plain one is repeated.
    names = {"column": refused.column, "constraint": refused.constraint}
    named = "".join(f", {kind} {name}" for kind, name in names.items() if re.fullmatch(r"[\w$]{1,63}", name))
    return f"{_hint(refused).replace('{role}', access.role)} (SQLSTATE {refused.code}{named})"


def _lack(access: Access, code: str) -> str:
    if access.missing:
        return f"it has no column{'s' if len(access.missing) > 1 else ''} {', '.join(access.missing)}"
    return _KEY_HINTS.get(access.key, "") if code in {"", "42P10", "42883", "55000"} else ""


def _hint(refused: Refused) -> str:
    if refused.inside:
        return "a trigger or function of the table, or a table that refers to it, raised an error"
    if refused.code == "23514" and not refused.constraint:
        return "it has no partition for the row"
    return _HINTS.get(refused.code) or _CLASS_HINTS.get(refused.code[:2], "PostgreSQL refused it")
