"""The audit's notes: resources and findings in a temporary SQLite file, so that a million fit in little memory.

The file is in the folder for temporary files (TMPDIR) and has no name there: it vanishes with the process.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from postgres_writer.audit.model import Finding, Resource
from postgres_writer.core.audit_result import Kind
from postgres_writer.errors import AuditError

# no journal and no sync: the file ends with the process, so a crash has nothing to protect; 16 MB of cache
# WITHOUT ROWID: stored in the order of the id, in which it is read
# https://www.sqlite.org/pragma.html https://www.sqlite.org/withoutrowid.html
_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -16000;
CREATE TABLE resource (id TEXT PRIMARY KEY, tbl TEXT, name TEXT, age INTEGER, country TEXT, tables TEXT,
    reason TEXT, paused, deleting, qualified) WITHOUT ROWID;
CREATE TABLE finding (kind INTEGER, id TEXT, tbl TEXT, oid INTEGER, ctid TEXT, differences TEXT, vals TEXT, detail TEXT,
    repairable, prunable, PRIMARY KEY (kind, id, tbl, oid, ctid)) WITHOUT ROWID;
CREATE TABLE unconfirmed (id TEXT, kind INTEGER, tbl TEXT, PRIMARY KEY (id, kind, tbl)) WITHOUT ROWID;
"""
_KINDS = list(Kind)
_NO_VALUES = (None, None, None)


class Spool:
    """The notes of one audit."""

    def __init__(self) -> None:
        # an empty name: a file without one, which SQLite removes when it closes
        self._db = sqlite3.connect("")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close and remove the file."""
        self._db.close()

    def clear_resources(self) -> None:
        """Forget the resources. Raises AuditError when the disk is full."""
        self._write("DELETE FROM resource")

    def add_resources(self, resources: Iterable[Resource]) -> None:
        """Note resources. Raises AuditError when the disk is full."""
        rows = (
            (
                r.id,
                r.table,
                *(r.values or _NO_VALUES),
                # NULL where the status lists just spec.table, as nearly always
                None if r.tables == (r.table,) else json.dumps(r.tables),
                r.reason,
                r.paused,
                r.deleting,
                r.qualified,
            )
            for r in resources
        )
        self._write("INSERT OR REPLACE INTO resource VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def resources(self) -> Iterator[Resource]:
        """Yield the resources in the byte order of their ids."""
        found = self._db.execute("SELECT * FROM resource ORDER BY id")
        for row, table, name, age, country, tables, reason, *flags in found:
            listed = (table,) if tables is None else tuple(json.loads(tables))
            spec = (name, age, country) if name is not None else None
            yield Resource(row, table, spec, listed, reason, *map(bool, flags))

    def count(self) -> int:
        """Return the number of resources."""
        return int(next(self._column("SELECT count(*) FROM resource")))

    def tables(self) -> set[str]:
        """Return every table that a resource names as its own, or as one that may hold its row."""
        texts = self._column("SELECT DISTINCT tables FROM resource WHERE tables IS NOT NULL")
        return set(self._column("SELECT DISTINCT tbl FROM resource WHERE tbl <> ''")).union(*map(json.loads, texts))

    def recorded_tables(self) -> set[str]:
        """Return every table that the status of a resource lists with its schema."""
        # without a text the status lists just spec.table
        alone = self._column("SELECT DISTINCT tbl FROM resource WHERE tables IS NULL AND tbl <> '' AND qualified")
        texts = self._column("SELECT DISTINCT tables FROM resource WHERE tables IS NOT NULL AND qualified")
        return set(alone).union(*map(json.loads, texts))

    def add_findings(self, findings: Iterable[Finding]) -> None:
        """Note findings. Raises AuditError when the disk is full."""
        rows = (
            (
                _KINDS.index(f.kind),
                f.id,
                f.table,
                *f.place,
                # JSON knows no Decimal, which is what a numeric column gives
                json.dumps(f.differences, default=str),
                json.dumps(f.values, default=str),
                f.detail,
                f.repairable,
                f.prunable,
            )
            for f in findings
        )
        self._write("INSERT OR REPLACE INTO finding VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def mark_unconfirmed(self) -> int:
        """Set the findings about single ids aside, to be looked at again; gives how many ids these are.

        Raises AuditError when the disk is full.
        """
        self._write("INSERT INTO unconfirmed SELECT DISTINCT id, kind, tbl FROM finding WHERE id <> ''")
        self._write("DELETE FROM finding WHERE id <> ''")
        return int(next(self._column("SELECT count(DISTINCT id) FROM unconfirmed")))

    def keep_confirmed(self) -> None:
        """Drop the findings that the first look did not have. Raises AuditError when the disk is full."""
        self._write("DELETE FROM finding WHERE id <> '' AND (id, kind, tbl) NOT IN unconfirmed")

    def is_unconfirmed(self, row: str) -> bool:
        """Say whether a finding about that id is to be looked at again."""
        return any(self._column("SELECT 1 FROM unconfirmed WHERE id = ?", row))

    def unconfirmed(self) -> Iterator[str]:
        """Yield the ids to be looked at again, in their byte order."""
        return self._column("SELECT DISTINCT id FROM unconfirmed ORDER BY id")

    def unconfirmed_namespaces(self) -> list[str]:
        """Return the namespaces of these ids."""
        return list(self._column("SELECT DISTINCT substr(id, 1, instr(id, '/') - 1) FROM unconfirmed"))

    def repairable(self) -> Iterator[str]:
        """Yield the ids of what a sync fixes, in their byte order: one sync fixes all findings of a resource."""
        return self._column("SELECT DISTINCT id FROM finding WHERE repairable ORDER BY id")

    def findings(self) -> Iterator[Finding]:
        """Yield the findings, kind by kind, in the byte order of their ids."""
        found = self._db.execute("SELECT * FROM finding ORDER BY kind, id, tbl, oid, ctid")
        for kind, about, table, oid, ctid, differences, values, detail, repairable, prunable in found:
            yield Finding(
                _KINDS[kind],
                about,
                table,
                detail,
                tuple(tuple(difference) for difference in json.loads(differences)),
                tuple(json.loads(values)),
                (oid, ctid),
                bool(repairable),
                bool(prunable),
            )

    def summary(self) -> dict[str, int]:
        """Return how many findings there are of each kind that there are."""
        counted = self._db.execute("SELECT kind, count(*) FROM finding GROUP BY kind ORDER BY kind")
        return {_KINDS[kind].value: number for kind, number in counted}

    def widths(self) -> tuple[int, int]:
        """Return the lengths of the longest id and the longest table among the findings."""
        widths = self._db.execute("SELECT coalesce(max(length(id)), 0), coalesce(max(length(tbl)), 0) FROM finding")
        longest_id, longest_table = widths.fetchone()
        return longest_id, longest_table

    def _column(self, query: str, *parameters: str) -> Iterator[Any]:
        return (value for (value,) in self._db.execute(query, parameters))

    def _write(self, statement: str, rows: Iterable[tuple[Any, ...]] = ((),)) -> None:
        """Run a statement for each of the rows, and say in a sentence that the disk is full."""
        try:
            self._db.executemany(statement, rows)
        except sqlite3.OperationalError as error:
            raise AuditError("The temporary file cannot be written: set TMPDIR to a folder with more space.") from error
