"""Real tables that a test breaks and repairs while a role without privileges of its own works on them."""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import psycopg2.extensions
from psycopg2 import sql

from postgres_writer.config.settings import DatabaseConfig
from postgres_writer.core.row import relation_name
from support.postgres import Database

TABLES = ("public.a", "public.b", "public.c", "other.d")
SPELLINGS = ("a", "b", "c", "other.d", "public.a")
"""What spec.table may say: two of them are one table."""
BYSTANDER = ("default/bystander", "somebody", 1, "nowhere")
"""Another's row, in every table; it must never be changed."""
DEFAULT_COUNTRY = "unknown"
"""What a column holds that no resource names (any more)."""
HIDDEN = "mallory"
"""The name in a row that the writer does not see where a table hides rows."""

Row = tuple[str, str, int, str]

_FUNCTIONS = {
    "swallow": "RETURN NULL",
    "change": "IF pg_trigger_depth() = 1 THEN EXECUTE format('UPDATE %s SET age = age + 100 WHERE id = $1',"
    " TG_RELID::regclass) USING NEW.id; END IF; RETURN NULL",
    "lose": f"EXECUTE format('DELETE FROM %s WHERE id <> %L', TG_RELID::regclass, '{BYSTANDER[0]}'); RETURN NULL",
    "restore": "IF pg_trigger_depth() = 1 THEN EXECUTE format('INSERT INTO %s SELECT ($1).*', TG_RELID::regclass)"
    " USING OLD; END IF; RETURN NULL",
    # what it leaves stays in the session of the writer, also when the table is repaired
    "leak": "SET search_path TO pg_temp, other; SET statement_timeout TO 0; SET lock_timeout TO 0;"
    " SET default_transaction_isolation TO 'repeatable read'; SET synchronous_commit TO off;"
    " SET row_security TO on; SET client_encoding TO 'LATIN1'; "
    + " ".join(
        f"CREATE TEMP TABLE IF NOT EXISTS {name} (id text PRIMARY KEY, name text, age int, country text);"
        for name in "abcd"
    )
    + " RETURN NULL",
}
_LATE = "CONSTRAINT TRIGGER {name} AFTER {event} ON {table} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
_TRIGGERS = {
    "swallows writes": ("TRIGGER {name} BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW", "swallow"),
    "swallows deletes": ("TRIGGER {name} BEFORE DELETE ON {table} FOR EACH ROW", "swallow"),
    "changes rows": ("TRIGGER {name} AFTER INSERT OR UPDATE ON {table} FOR EACH ROW", "change"),
    "changes rows at the commit": (_LATE.replace("{event}", "INSERT OR UPDATE"), "change"),
    "loses rows": ("TRIGGER {name} AFTER INSERT ON {table} FOR EACH STATEMENT", "lose"),
    "restores rows": ("TRIGGER {name} AFTER DELETE ON {table} FOR EACH ROW", "restore"),
    "restores rows at the commit": (_LATE.replace("{event}", "DELETE"), "restore"),
    "leaks settings": ("TRIGGER {name} BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH STATEMENT", "leak"),
}
_BREAK = {
    "dropped": "DROP TABLE {table}",
    "denied": "REVOKE ALL ON {table} FROM {role}",
    "undeletable": "REVOKE DELETE ON {table} FROM {role}",
    "hides rows": (
        f"UPDATE {{table}} SET name = '{HIDDEN}' WHERE id <> '{BYSTANDER[0]}';"
        "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"
    ),
    **{
        fault: "CREATE {} EXECUTE FUNCTION public.{}()".format(made.replace("{name}", f'"{fault}"'), function)
        for fault, (made, function) in _TRIGGERS.items()
    },
}
_MEND = {
    "denied": "GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}",
    "undeletable": "GRANT DELETE ON {table} TO {role}",
    "hides rows": "ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
    **{fault: f'DROP TRIGGER "{fault}" ON {{table}}' for fault in _TRIGGERS},
}
FAULTS = tuple(_BREAK)
_MAKE = (
    f"CREATE TABLE {{table}} (id text PRIMARY KEY, name text, age int, country text DEFAULT '{DEFAULT_COUNTRY}'); "
    "INSERT INTO {table} VALUES (%s, %s, %s, %s); GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}; "
    f"CREATE POLICY seen ON {{table}} USING (name <> '{HIDDEN}')"
)
_PREPARE = (
    "CREATE ROLE {role} LOGIN PASSWORD {password}; CREATE SCHEMA other; GRANT USAGE ON SCHEMA other TO {role}; "
    # the test's own changes pass the triggers
    "SET session_replication_role = replica"
)
_FUNCTION = "CREATE FUNCTION public.{} () RETURNS trigger LANGUAGE plpgsql AS {}"


def resolved(table: str) -> str:
    """Give the relation that a spelling means."""
    return relation_name(table) or table


@dataclass
class BreakableTables:
    """The tables of TABLES, what is wrong with each, and the role that the store under test uses."""

    NARROWING: ClassVar = ("denied", "undeletable", "hides rows")
    """The faults that change what the role may do, or see."""
    TAMPERING: ClassVar = ("dropped", "hides rows")
    """The faults that change rows behind the back of the hook."""

    connection: psycopg2.extensions.connection
    writer: DatabaseConfig
    faults: dict[str, set[str]] = field(default_factory=lambda: {table: {"dropped"} for table in TABLES})
    _looks: set[tuple[str, ...]] = field(default_factory=set)

    def reset(self) -> None:
        """Recreate all tables, intact and with only the bystander, whatever was in flight."""
        self.end_sessions()
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
        for function, body in _FUNCTIONS.items():
            made = sql.SQL(_FUNCTION).format(sql.Identifier(function), sql.Literal(f"BEGIN {body}; END"))
            cursor.execute(made)
        try:
            tables = BreakableTables(connection, database.config(user=name, password=password))
            tables.reset()
            yield tables
        finally:
            cursor.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))
