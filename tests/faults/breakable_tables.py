"""Real tables that a test breaks and repairs while a role without privileges of its own works on them."""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

import psycopg2.extensions
from psycopg2 import sql

from postgres_writer.config.settings import DatabaseConfig
from support.postgres import Database

TABLES = ("a", "b", "c", "other.d")
SPELLINGS = (*TABLES, "public.a")
"""What spec.table may say: two of them are one table."""
BYSTANDER = ("default/bystander", "somebody", 1, "nowhere")
"""Another's row, in every table; it must never be changed."""
FAULTS = ("dropped", "denied", "undeletable", "swallows writes", "swallows deletes", "hides rows")
HIDDEN = "mallory"
"""The name in a row that the writer does not see where a table hides rows."""

Row = tuple[str, str, int, str]

_BREAK = {
    "dropped": "DROP TABLE {table}",
    "denied": "REVOKE ALL ON {table} FROM {role}",
    "undeletable": "REVOKE DELETE ON {table} FROM {role}",
    "swallows writes": (
        "CREATE TRIGGER writes BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION swallow()"
    ),
    "hides rows": (
        f"UPDATE {{table}} SET name = '{HIDDEN}' WHERE id <> '{BYSTANDER[0]}';"
        "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"
    ),
    "swallows deletes": "CREATE TRIGGER deletes BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION swallow()",
}
_MEND = {
    "denied": "GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}",
    "undeletable": "GRANT DELETE ON {table} TO {role}",
    "swallows writes": "DROP TRIGGER writes ON {table}",
    "hides rows": "ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
    "swallows deletes": "DROP TRIGGER deletes ON {table}",
}
_MAKE = (
    "CREATE TABLE {table} (id text PRIMARY KEY, name text, age int, country text); "
    "INSERT INTO {table} VALUES (%s, %s, %s, %s); GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}; "
    f"CREATE POLICY seen ON {{table}} USING (name <> '{HIDDEN}')"
)
_PREPARE = (
    "CREATE ROLE {role} LOGIN PASSWORD {password}; CREATE SCHEMA other; GRANT USAGE ON SCHEMA other TO {role}; "
    "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
    # the test's own changes pass the triggers that swallow the writer's
    "SET session_replication_role = replica"
)


def resolved(table: str) -> str:
    """Give the table that a spelling means."""
    return table.removeprefix("public.")


@dataclass
class BreakableTables:
    """The tables of TABLES, what is wrong with each, and the role that the store under test uses."""

    connection: psycopg2.extensions.connection
    writer: DatabaseConfig
    faults: dict[str, set[str]] = field(default_factory=lambda: {table: {"dropped"} for table in TABLES})
    _looks: set[tuple[str, ...]] = field(default_factory=set)

    def reset(self) -> None:
        """Recreate all tables, intact and with only the bystander."""
        for table in TABLES:
            self._run("DROP TABLE IF EXISTS {table}", table)
            self._make(table)

    def clear(self) -> None:
        """Repair all tables and leave only the bystander."""
        for table in TABLES:
            for fault in list(self.faults[table]):
                self.repair(table, fault)
            self._run("DELETE FROM {table} WHERE id <> %s", table, BYSTANDER[0])

    def exists(self, table: str) -> bool:
        """Say whether the table is there."""
        return "dropped" not in self.faults[table]

    def break_(self, table: str, fault: str) -> None:
        """Do one of FAULTS to a table that exists."""
        self._run(_BREAK[fault], table)
        self.faults[table].add(fault)
        if fault == "dropped":
            self.faults[table] = {fault}

    def repair(self, table: str, fault: str) -> None:
        """Undo a fault; a dropped table comes back empty but for the bystander."""
        if fault == "dropped":
            self._make(table)
            return
        self._run(_MEND[fault], table)
        self.faults[table].discard(fault)
        if fault == "denied":
            self.faults[table].discard("undeletable")

    def rows(self) -> dict[str, dict[str, Row]]:
        """Give every row by table and id, but for the bystander, which must be there unchanged."""
        there = tuple(table for table in TABLES if self.exists(table))
        found: dict[str, dict[str, Row]] = {table: {} for table in TABLES}
        if not there:
            return found
        with self.connection.cursor() as cursor:
            cursor.execute(sql.SQL("EXECUTE {}").format(self._look(there)))
            for table, *row in cursor.fetchall():
                found[table][row[0]] = tuple(row)
        for table in there:
            assert found[table].pop(BYSTANDER[0], None) == BYSTANDER, f"the bystander's row in {table} was changed"
        return found

    def tamper(self, table: str, row: str, name: str | None) -> None:
        """Change a row behind the writer's back, or delete it (None)."""
        if name is None:
            self._run("DELETE FROM {table} WHERE id = %s", table, row)
        else:
            self._run("UPDATE {table} SET name = %s WHERE id = %s", table, name, row)

    def end_sessions(self) -> None:
        """End every session of the writer, as a restart of the server does."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (self.writer.user,)
            )

    def _look(self, there: tuple[str, ...]) -> sql.Identifier:
        """Give the prepared statement that reads these tables: it is run after every step."""
        name = sql.Identifier(" ".join(there))
        if there not in self._looks:
            parts = [
                sql.SQL("SELECT {}, id, name, age, country FROM {}").format(sql.Literal(t), _name(t)) for t in there
            ]
            with self.connection.cursor() as cursor:
                cursor.execute(sql.SQL("PREPARE {} AS {}").format(name, sql.SQL(" UNION ALL ").join(parts)))
            self._looks.add(there)
        return name

    def _make(self, table: str) -> None:
        self._run(_MAKE, table, *BYSTANDER)
        self.faults[table] = set()

    def _run(self, statement: str, table: str, *parameters: object) -> None:
        role = sql.Identifier(self.writer.user)
        with self.connection.cursor() as cursor:
            cursor.execute(sql.SQL(statement).format(table=_name(table), role=role), parameters)


def _name(table: str) -> sql.Identifier:
    return sql.Identifier(*table.split("."))


@contextlib.contextmanager
def breakable_tables(database: Database) -> Iterator[BreakableTables]:
    """Make the tables and the role in a database, and take the role away at the end."""
    name, password = f"writer_{secrets.token_hex(6)}", secrets.token_hex(16)
    role = sql.Identifier(name)
    with database.connection() as connection, connection.cursor() as cursor:
        cursor.execute(sql.SQL(_PREPARE).format(role=role, password=sql.Literal(password)))
        try:
            tables = BreakableTables(connection, database.config(user=name, password=password))
            tables.reset()
            yield tables
        finally:
            cursor.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))
