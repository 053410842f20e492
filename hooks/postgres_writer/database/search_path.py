"""Notice that a table without a schema in its name has become another one."""

from __future__ import annotations

import logging

from postgres_writer.telemetry.logs import fields

logger = logging.getLogger(__name__)


class SearchPath:
    """The schemas in which PostgreSQL looks for such tables, as the last connection of this process found them.

    Nothing else shows that they changed: the table of that name in another schema is as good as the first one, and what
    is recorded in status is the name. They are not pinned, because a restart would then change them without a word.
    """

    def __init__(self) -> None:
        self._schemas: list[str] | None = None

    def found(self, schemas: list[str]) -> None:
        """Take note of what a new connection found, in the order in which it looks."""
        before, self._schemas = self._schemas, schemas
        if before is None:
            logger.info("Table names without a schema are looked up in these schemas", extra=fields(schemas=schemas))
        elif before != schemas:
            logger.warning(
                "The search path has changed: a table name without a schema may now mean another table",
                extra=fields(schemas=schemas, before=before),
            )
