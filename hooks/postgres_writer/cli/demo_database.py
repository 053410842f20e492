"""The demo's own connection to the database: it reads the rows itself instead of asking the hook server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from postgres_writer.audit.connection import connect
from postgres_writer.cli.embedded import connection_variables
from postgres_writer.config.settings import DatabaseConfig
from postgres_writer.database.statements import identifier


class DemoDatabase:
    """A connection to the embedded PostgreSQL whose data is in the folder."""

    def __init__(self, data_folder: Path) -> None:
        self._connection = connect(DatabaseConfig.from_env(connection_variables(data_folder)))
        self._connection.autocommit = True

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def create_table(self, table: str) -> None:
        """Create a table shaped like students."""
        self._run("CREATE TABLE {} (id text PRIMARY KEY, name text, age int, country text)", table)

    def rows(self, table: str, row_id: str) -> list[str]:
        """Return the rows of a resource in words; at most one, if the server keeps its promise."""
        found = self._run("SELECT name, age, country FROM {} WHERE id = %s", table, row_id)
        return [f"({name}, {age}, {country})" for name, age, country in found]

    def version(self, table: str, row_id: str) -> str:
        """Return what PostgreSQL changes with every write of a row: the writing transaction and the place."""
        [(xmin, ctid)] = self._run("SELECT xmin, ctid FROM {} WHERE id = %s", table, row_id)
        return f"{xmin} {ctid}"

    def delete(self, table: str, row_id: str) -> None:
        """Delete a row behind the server's back."""
        self._run("DELETE FROM {} WHERE id = %s", table, row_id)

    def exists(self, table: str) -> bool:
        """Say whether a table exists."""
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename = %s", (table,))
            return cursor.fetchone() == (1,)

    def _run(self, text: str, table: str, *parameters: str) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(text.format(identifier(table).as_string(cursor)), parameters or None)
            return cursor.fetchall() if cursor.description else []
