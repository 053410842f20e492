"""The errors of the audit."""

from postgres_writer.errors import PostgresWriterError


class AuditError(PostgresWriterError):
    """The audit cannot be done; the text is one sentence that says what to do."""


class ListExpired(AuditError):
    """The list took longer than the API server keeps its old state; it has to begin again with larger pages."""
