"""The errors of the project: each with its CamelCase reason and whether a retry can help.

PostgresWriterError
├── ConfigError                 a setting or a file is unusable; the server does not start
├── InvalidRequest              the body is not a hook request; answered as HTTP 400
├── AuditError                  the audit cannot be done; ListExpired: the list has to begin again
└── ResourceError               concerns one resource; answered as HTTP 200 with a condition
    ├── InvalidSpec, TableNotAllowed                        refused before a statement is sent
    ├── TableNotFound, AccessDenied, RowRejected, DeleteFailed   the database refused
    ├── DatabaseUnavailable, DatabaseBusy, RequestExpired   transient; retried automatically
    │   DatabaseImpaired is a DatabaseUnavailable: PostgreSQL answers, but that something is missing
    └── TableRecorded                                       an intermediate step, not a failure
"""

from __future__ import annotations

from enum import Enum


class Reason(str, Enum):
    """The reasons of the condition Ready, as the user sees them and the runbook explains them."""

    PENDING = "Pending"
    """No sync has answered yet; the defaults of the CustomResourceDefinition say so, never the hook server."""
    ROW_SYNCED = "RowSynced"
    """The row in spec.table matches the spec."""
    ROW_DELETED = "RowDeleted"
    """The row was deleted; the resource is waiting for another finalizer."""
    UNMANAGED = "Unmanaged"
    """The controller's selector no longer matches; the row was left in place and is no longer managed."""
    INVALID_SPEC = "InvalidSpec"
    """A field of the spec is missing or unusable; the message names it."""
    TABLE_NOT_ALLOWED = "TableNotAllowed"
    """The table policy does not allow this namespace to write to this table."""
    TABLE_NOT_FOUND = "TableNotFound"
    """The table does not exist (or is not visible to the role)."""
    ROW_REJECTED = "RowRejected"
    """PostgreSQL, a constraint, a trigger or row-level security refused the row."""
    ACCESS_DENIED = "AccessDenied"
    """The database role lacks a grant on the table."""
    DATABASE_UNAVAILABLE = "DatabaseUnavailable"
    """No connection, no answer, or a read-only server."""
    DATABASE_BUSY = "DatabaseBusy"
    """A lock, a deadlock or the statement timeout; the next try may succeed."""
    REQUEST_EXPIRED = "RequestExpired"
    """The caller disconnected, or the request timed out; nothing was written."""
    DELETE_FAILED = "DeleteFailed"
    """The row could not be deleted; the finalizer stays."""
    TABLE_RECORDED = "TableRecorded"
    """A table that was refused before is recorded first and written at the next sync."""


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


class ListExpired(AuditError):
    """The list took longer than the API server keeps its old state; it has to begin again with larger pages."""


class ResourceError(PostgresWriterError):
    """What keeps one resource from being Ready; the text becomes the condition's message."""

    reason: Reason
    retry: Retry

    # outcomes are compared as values, and exceptions would compare by identity
    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.args == getattr(other, "args", None)

    __hash__ = PostgresWriterError.__hash__


class InvalidSpec(ResourceError):
    """A field of the spec is missing or unusable."""

    reason, retry = Reason.INVALID_SPEC, Retry.PERIOD


class TableNotAllowed(ResourceError):
    """The table policy refuses this table to this namespace."""

    reason, retry = Reason.TABLE_NOT_ALLOWED, Retry.PERIOD


class TableNotFound(ResourceError):
    """The table does not exist."""

    reason, retry = Reason.TABLE_NOT_FOUND, Retry.USER_ACTION


class AccessDenied(ResourceError):
    """The role lacks a grant."""

    reason, retry = Reason.ACCESS_DENIED, Retry.USER_ACTION


class RowRejected(ResourceError):
    """The database refused or swallowed the row."""

    reason, retry = Reason.ROW_REJECTED, Retry.USER_ACTION


class DeleteFailed(ResourceError):
    """The row could not be deleted for a reason that only a user can remove."""

    reason, retry = Reason.DELETE_FAILED, Retry.USER_ACTION


class DatabaseUnavailable(ResourceError):
    """No connection could be opened, it broke, or the server does not answer or is read-only."""

    reason, retry = Reason.DATABASE_UNAVAILABLE, Retry.TRANSIENT


class DatabaseImpaired(DatabaseUnavailable):
    """PostgreSQL answers that it lacks disk space, memory, connections or a grant; others may not notice that."""


class DatabaseBusy(ResourceError):
    """A lock, a deadlock or the statement timeout."""

    reason, retry = Reason.DATABASE_BUSY, Retry.TRANSIENT


class RequestExpired(ResourceError):
    """The caller disconnected or the request timed out; nothing was written."""

    reason, retry = Reason.REQUEST_EXPIRED, Retry.TRANSIENT


class TableRecorded(ResourceError):
    """The table is recorded in status first; the next sync writes."""

    reason, retry = Reason.TABLE_RECORDED, Retry.AT_ONCE
