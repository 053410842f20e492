"""The audit's notes: resources and findings in a temporary SQLite file, so that a million fit in little memory.

The file is in the folder for temporary files (TMPDIR) and has no name there: it vanishes with the process.
"""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from postgres_writer.audit.model import Finding, Key, Resource
from postgres_writer.core.audit_result import Kind
from postgres_writer.errors import AuditError

# no journal and no sync: the file ends with the process, so a crash has nothing to protect; 16 MB of cache
# WITHOUT ROWID: stored in the order of the id, in which it is read
# https://www.sqlite.org/pragma.html https://www.sqlite.org/withoutrowid.html
_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -16000;
CREATE TABLE resource (id TEXT PRIMARY KEY, tbl TEXT, id_column TEXT, columns TUPLE, doc TEXT, tables TUPLE,
    reason TEXT, paused BOOLEAN, deleting BOOLEAN, qualified BOOLEAN) WITHOUT ROWID;
CREATE TABLE finding (kind KIND, id TEXT, tbl TEXT, detail TEXT, differences TUPLE, place TUPLE, id_column TEXT,
    repairable BOOLEAN, prunable BOOLEAN, PRIMARY KEY (kind, id, tbl, place)) WITHOUT ROWID;
CREATE TABLE unconfirmed (id TEXT, kind TEXT, tbl TEXT, PRIMARY KEY (id, kind, tbl)) WITHOUT ROWID;
"""
# nothing else uses sqlite3 here, and no other program can write what is read: the file has no name
# https://docs.python.org/3/library/sqlite3.html#how-to-register-adapter-callables
sqlite3.register_adapter(bool, int)  # as it is stored anyway, but found at once
sqlite3.register_adapter(tuple, lru_cache(pickle.dumps))  # most resources have the same few tuples
sqlite3.register_converter("TUPLE", lru_cache(pickle.loads))
sqlite3.register_converter("BOOLEAN", b"1".__eq__)
sqlite3.register_converter("KIND", lambda text: Kind(text.decode()))


class Spool:
    """The notes of one audit. What writes raises AuditError when the disk is full."""

    def __init__(self) -> None:
        # an empty name: a file without one, which SQLite removes when it closes
        self._db = sqlite3.connect("", detect_types=sqlite3.PARSE_DECLTYPES)
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close and remove the file."""
        self._db.close()

    def note_resources(self, resources: Iterable[Resource]) -> None:
        """Note these resources, and forget those of before."""
        self._write("DELETE FROM resource")
        self._write("INSERT OR REPLACE INTO resource VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", resources)

    def resources(self) -> Iterator[Resource]:
        """Yield the resources in the byte order of their ids."""
        return map(Resource._make, self._db.execute("SELECT * FROM resource ORDER BY id"))

    def count(self) -> int:
        """Return the number of resources."""
        return int(next(self._column("SELECT count(*) FROM resource")))

    def keys(self) -> set[Key]:
        """Return every table that a resource names as its own, or as one that may hold its row, with its id column."""
        own = set(self._db.execute("SELECT DISTINCT tbl, id_column FROM resource WHERE tbl <> ''"))
        return own | self._listed("SELECT DISTINCT tables, id_column FROM resource")

    def recorded_keys(self) -> set[Key]:
        """Return every table that the status of a resource lists with its schema, with its id column."""
        return self._listed("SELECT DISTINCT tables, id_column FROM resource WHERE qualified")

    def add_findings(self, findings: Iterable[Finding]) -> None:
        """Note findings."""
        self._write("INSERT OR REPLACE INTO finding VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", findings)

    def mark_unconfirmed(self) -> int:
        """Set the findings about single ids aside, to be looked at again; gives how many ids these are."""
        self._write("INSERT INTO unconfirmed SELECT DISTINCT id, kind, tbl FROM finding WHERE id <> ''")
        self._write("DELETE FROM finding WHERE id <> ''")
        return int(next(self._column("SELECT count(DISTINCT id) FROM unconfirmed")))

    def keep_confirmed(self) -> None:
        """Drop the findings that the first look did not have."""
        self._write("DELETE FROM finding WHERE id <> '' AND (id, kind, tbl) NOT IN unconfirmed")

    def is_unconfirmed(self, row: str) -> bool:
        """Say whether a finding about that id is to be looked at again."""
        return any(self._column("SELECT 1 FROM unconfirmed WHERE id = ?", row))

    def unconfirmed(self) -> Iterator[str]:
        """Yield the ids to be looked at again, in their byte order."""
        return self._column("SELECT DISTINCT id FROM unconfirmed ORDER BY id")

    def repairable(self) -> Iterator[str]:
        """Yield the ids of what a sync fixes, in their byte order: one sync fixes all findings of a resource."""
        return self._column("SELECT DISTINCT id FROM finding WHERE repairable ORDER BY id")

    def findings(self) -> Iterator[Finding]:
        """Yield the findings, kind by kind, in the byte order of their ids."""
        for kind in Kind:
            found = self._db.execute("SELECT * FROM finding WHERE kind = ? ORDER BY id, tbl, place", (kind,))
            yield from map(Finding._make, found)

    def summary(self) -> dict[str, int]:
        """Return how many findings there are of each kind that there are."""
        counted = dict(self._db.execute("SELECT kind, count(*) FROM finding GROUP BY kind"))
        return {kind.value: counted[kind] for kind in Kind if kind in counted}

    def widths(self) -> tuple[int, int]:
        """Return the lengths of the longest id and the longest table among the findings."""
        query = "SELECT coalesce(max(length(id)), 0), coalesce(max(length(tbl)), 0) FROM finding"
        longest_id, longest_table = self._db.execute(query).fetchone()
        return longest_id, longest_table

    def _listed(self, query: str) -> set[Key]:
        return {(table, id_column) for tables, id_column in self._db.execute(query) for table in tables}

    def _column(self, query: str, *parameters: str) -> Iterator[Any]:
        return (value for (value,) in self._db.execute(query, parameters))

    def _write(self, statement: str, rows: Iterable[tuple[Any, ...]] = ((),)) -> None:
        """Run a statement for each of the rows, and say in a sentence that the disk is full."""
        try:
            self._db.executemany(statement, rows)
        except sqlite3.OperationalError as error:
            raise AuditError("The temporary file cannot be written: set TMPDIR to a folder with more space.") from error
