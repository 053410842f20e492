"""The errors of the project: each with its CamelCase reason and whether a retry can help."""

from __future__ import annotations

import math
from enum import Enum


class Reason(str, Enum):
    """The reasons of the condition Ready, as the user sees them and the runbook explains them.

    Those after Unmanaged have an error of the same name, which says what each means.
    """

    PENDING = "Pending"
    """No sync has answered yet; the defaults of the CustomResourceDefinition say so, never the hook server."""
    ROW_SYNCED = "RowSynced"
    """The row in spec.table matches the spec."""
    ROW_DELETED = "RowDeleted"
    """The row was deleted; the resource is waiting for another finalizer."""
    UNMANAGED = "Unmanaged"
    """The controller's selector no longer matches; the row was left in place and is no longer managed."""
    INVALID_SPEC = "InvalidSpec"
    TABLE_NOT_ALLOWED = "TableNotAllowed"
    DATABASE_NOT_CONFIGURED = "DatabaseNotConfigured"
    TABLE_NOT_FOUND = "TableNotFound"
    ROW_REJECTED = "RowRejected"
    ACCESS_DENIED = "AccessDenied"
    DATABASE_UNAVAILABLE = "DatabaseUnavailable"
    DATABASE_BUSY = "DatabaseBusy"
    REQUEST_EXPIRED = "RequestExpired"
    DELETE_FAILED = "DeleteFailed"
    TABLE_RECORDED = "TableRecorded"


class Retry(Enum):
    """How soon a retry can help."""

    AT_ONCE = "at once"
    TRANSIENT = "transient"
    USER_ACTION = "user action"
    PERIOD = "period"


class PostgresWriterError(Exception):
    """Base of all errors of this project; ``str()`` of it is one sentence for the user."""


class ConfigError(PostgresWriterError):
    """A setting is unusable; the sentence names the variable."""


class InvalidRequest(PostgresWriterError):
    """The body is not a hook request; the sentence says what is missing."""


class AuditError(PostgresWriterError):
    """The audit cannot be done; the text is one sentence that says what to do."""


class DatabaseUnreadable(AuditError):
    """A database cannot be audited; others can."""


class ListExpired(AuditError):
    """The list took longer than the API server keeps its old state; it has to begin again with larger pages."""


class ResourceError(PostgresWriterError):
    """What keeps one resource from being Ready; the text becomes the condition's message."""

    reason: Reason
    retry: Retry

    def __init_subclass__(cls, retry: Retry) -> None:
        cls.reason, cls.retry = Reason(cls.__name__), retry

    # outcomes are compared as values, and exceptions would compare by identity
    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.args == getattr(other, "args", None)

    __hash__ = PostgresWriterError.__hash__


class InvalidSpec(ResourceError, retry=Retry.PERIOD):
    """A field of the spec is missing or unusable; the message names it."""


class TableNotAllowed(ResourceError, retry=Retry.PERIOD):
    """The table policy does not allow this namespace to write to this table."""


class DatabaseNotConfigured(ResourceError, retry=Retry.USER_ACTION):
    """No configuration of spec.database is known, or it is unusable; the message says which.

    ``found``: there is one, so that the row may have been written by what it said before.
    """

    def __init__(self, text: str = "", *, found: bool = False) -> None:
        super().__init__(text)
        self.found = found


class TableNotFound(ResourceError, retry=Retry.USER_ACTION):
    """The table does not exist, or is not visible to the role."""


class AccessDenied(ResourceError, retry=Retry.USER_ACTION):
    """The database role lacks a grant on the table."""


class RowRejected(ResourceError, retry=Retry.USER_ACTION):
    """PostgreSQL, a constraint, a trigger or row-level security refused or swallowed the row."""


class DeleteFailed(ResourceError, retry=Retry.USER_ACTION):
    """The row could not be deleted for a reason that only a user can remove; the finalizer stays."""


# what the transient ones say
UNAVAILABLE = "PostgreSQL is unreachable or not responding; retrying automatically."
LOGIN_REFUSED = (
    "PostgreSQL refuses the login of the role {role}; check its name, password and rights, and pg_hba.conf. Retrying "
    "automatically."
)
NO_DATABASE = "PostgreSQL has no database {dbname}; create it, or correct PSQL_DBNAME. Retrying automatically."
NO_CONNECTION = "PostgreSQL has no connection left for the role {role}; retrying automatically."
STARTING = "PostgreSQL is starting or stopping; retrying automatically."
LOST_PREPARED = (
    "PostgreSQL lost prepared statements (a pooler, or a trigger that deallocates them); set "
    "PSQL_PREPARED_STATEMENTS=false. Retrying automatically."
)
READ_ONLY = "PostgreSQL is read-only (a standby?); retrying until a primary is available."
BUSY = "The row or table is locked or busy (lock wait, deadlock or timeout); retrying automatically."
IN_FLIGHT = "An earlier transaction for this row has not ended (a wait for a standby or disk?); retrying automatically."
EXPIRED = "The request timed out before anything was written; retrying automatically."
FORBIDDEN = (
    "The database role is not allowed to execute PostgreSQL's function {}, without which no row can be written or "
    "deleted; grant it EXECUTE on that function. Retrying automatically."
)
EXHAUSTED = "PostgreSQL is out of disk space, memory or connections (SQLSTATE {}); retrying automatically."


class DatabaseUnavailable(ResourceError, retry=Retry.TRANSIENT):
    """No connection could be opened, or it broke, or the server is read-only or lacks disk space, memory or a grant.

    ``away`` is for how many seconds no connection could be opened: infinite where waiting is no help (a refused login),
    and where a statement was sent and lost or refused, because its row may be what is wrong.
    """

    def __init__(self, text: str = "", away: float = math.inf) -> None:
        super().__init__(text)
        self.away = away


class DatabaseBusy(ResourceError, retry=Retry.TRANSIENT):
    """A lock, a deadlock or the statement timeout; the next try may succeed."""


class RequestExpired(ResourceError, retry=Retry.TRANSIENT):
    """The caller disconnected or the request timed out; nothing was written."""


TRANSIENT = (DatabaseUnavailable, DatabaseBusy, RequestExpired)
"""They say nothing about the tables: each of them may still hold the row."""


class TableRecorded(ResourceError, retry=Retry.AT_ONCE):
    """A table that was refused before is recorded in status first; the next sync writes."""
