"""What the resources say beside what the rows say: (resource, rows of its id) -> findings. Pure.

Tables are relation names (schema.table). A row is known by the place where it is stored (tableoid and ctid), because a
partition and its parent show the same row. What is called prunable here is deleted on demand, so it is only prunable if
nothing is uncertain.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from postgres_writer.core.audit_result import Kind
from postgres_writer.core.request import load_request
from postgres_writer.core.row import ID_COLUMN
from postgres_writer.errors import Reason

_UNCERTAIN = "no status lists this table with its schema; give --table to prune the row"
Place = tuple[int, str, str]
"""Where a row is stored, and the transaction that wrote it there: (tableoid, ctid, xmin). A changed row has another."""
Key = tuple[str, str]  # a table and the column that holds the ids: one table may have several
_encode = json.JSONEncoder(ensure_ascii=False).encode  # raw: an SQL_ASCII database knows no \\u escapes


class Resource(NamedTuple):
    """A resource as the audit needs it. ``doc`` holds the values of ``columns`` as a JSON object.

    An invalid spec has None as ``doc``, perhaps no ``table`` ("").
    ``qualified`` says whether the status itself gives the schemas of ``tables``: 0.1.0 wrote names as spec.table had
    them, and what such a name means depends on a PSQL_SCHEMA that may not be the server's here.
    """

    id: str
    table: str
    id_column: str
    columns: tuple[str, ...]
    doc: str | None
    tables: tuple[str, ...]
    reason: str
    paused: bool
    deleting: bool
    qualified: bool = True

    @property
    def home(self) -> Key:
        """Where its row belongs."""
        return self.table, self.id_column

    @property
    def keys(self) -> list[Key]:
        """Where its row may be: at home first."""
        return [(table, self.id_column) for table in (self.table, *self.tables)]


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation of the database, known by its oid, and its name (schema.table), as read by one column of ids.

    ``columns`` are those that a resource can name.
    """

    oid: int
    name: str = field(compare=False)
    id_column: str = ID_COLUMN
    columns: tuple[str, ...] = field(default=(), compare=False)

    @property
    def key(self) -> Key:
        """Its name and the column of the ids."""
        return self.name, self.id_column


class Row(NamedTuple):
    """A row as one relation shows it. ``place`` is where it is stored, whichever relation shows it."""

    id: str
    relation: Relation
    place: Place


Difference = tuple[tuple[str, ...], str]
"""How a row is not as its resource wants it: the columns that differ, and what else is wrong."""


class Finding(NamedTuple):
    """One thing that is not as it should be. ``differences`` are the columns that differ."""

    kind: Kind
    id: str
    table: str
    detail: str = ""
    differences: tuple[str, ...] = ()
    # without a row: no table has the oid 0
    place: Place = (0, "", "")
    id_column: str = ID_COLUMN
    repairable: bool = False
    prunable: bool = False


@dataclass
class Tables:
    """The relations by key, and why those of ``unreadable`` cannot be compared.

    ``certain`` are those that a status lists with their schema, or that the user names: a spec alone names any table,
    also one that the policy refuses, and another cluster may own what no resource names.
    """

    relations: dict[Key, Relation] = field(default_factory=dict)
    unreadable: dict[Key, str] = field(default_factory=dict)
    certain: Set[Key] = frozenset()

    def uncertainty(self, resource: Resource) -> str:
        """Say what keeps us from knowing which tables the resource names; an empty text when we know."""
        for key in resource.keys:
            if key not in self.relations:
                return f"table {key[0]} is not visible to the audit"
            if key in self.unreadable:
                return f"table {key[0]} could not be read"
        if not resource.qualified or resource.table not in resource.tables:
            return f"its status does not list {resource.table}; prune it after the next sync"
        return ""


def parse_resource(manifest: dict[str, Any], schema: str) -> Resource:
    """Read a resource as the hooks do; ``schema`` is that of tables without one in their name.

    Raises InvalidRequest when it is of another kind, or has no namespace and name.
    """
    request = load_request({"parent": manifest}, schema_of=lambda _database: schema)
    spec, listed = request.spec, (request.raw_status or {}).get("tables", ())
    return Resource(
        id=request.id,
        table=request.relation or "",
        id_column=request.id_column,
        columns=request.columns,
        doc=_encode({spec.id_column: request.id, **dict(spec.values)}) if spec else None,
        tables=request.status.tables,
        reason=request.status.ready.reason if request.status.ready else "",
        paused=bool(request.paused),
        deleting=request.deleting,
        qualified=all(table in listed for table in request.status.tables),
    )


def own_row(resource: Resource, rows: list[Row], tables: Tables) -> Row | None:
    """Give the row of a resource in spec.table, from all rows of its id."""
    home = tables.relations.get(resource.home)
    at_home = [row for row in rows if row.relation == home]
    # a parent also shows the rows of what inherits from it: its own comes first
    return next((row for row in at_home if row.place[0] == row.relation.oid), at_home[0] if at_home else None)


def judge(
    resource: Resource | None, rows: list[Row], own: Row | None, tables: Tables, difference: Difference | None = None
) -> Iterator[Finding]:
    """Compare a resource (or None) with all rows of its id; ``difference`` is what PostgreSQL says of its ``own``."""
    if resource is None:
        for row in _distinct(rows):
            detail = "" if row.relation.key in tables.certain else _UNCERTAIN
            about = (row.id, row.relation.name, detail, (), row.place, row.relation.id_column)
            yield Finding(Kind.NO_RESOURCE, *about, prunable=not detail)
    # released: no sync comes for it any more, so its row may hold anything
    elif resource.reason == Reason.UNMANAGED.value and not resource.deleting:
        detail = "the controller's selector does not match it; its row is not managed"
        yield Finding(Kind.UNMANAGED, resource.id, resource.table, detail)
    # while a resource is being deleted its row may be there or gone: both are right
    elif not resource.deleting:
        yield from _judge_managed(resource, rows, own, tables, difference)


def _judge_managed(
    resource: Resource, rows: list[Row], own: Row | None, tables: Tables, difference: Difference | None
) -> Iterator[Finding]:
    others = [row for row in rows if own is None or row.place != own.place]
    home = tables.relations.get(resource.home)
    if own is None:
        # of a table that could not be read nothing is known, so nothing is called missing from it
        if resource.home not in tables.unreadable:
            repairable = resource.doc is not None and not resource.paused
            why = _why_missing(resource, home)
            yield Finding(Kind.MISSING, resource.id, resource.table, why, repairable=repairable)
    elif difference is not None:
        columns, why = difference
        detail = ", ".join(filter(None, ("paused" if resource.paused else "", why)))
        yield Finding(Kind.DIFFERS, resource.id, resource.table, detail, columns, repairable=not detail)
    if home is not None and others:
        yield from (_judge_other(resource, row, own, rows, tables) for row in _distinct(others))


def _judge_other(resource: Resource, row: Row, own: Row | None, rows: list[Row], tables: Tables) -> Finding:
    """Judge a row that is not the one in spec.table."""
    kind = Kind.ELSEWHERE if own is None else Kind.DUPLICATE
    shown_by = {other.relation for other in rows if other.place == row.place}
    detail, repairable, prunable = "", False, False
    if tables.relations.get(resource.home) in shown_by:
        detail = "spec.table shows it as well: a second row there, or in a table that inherits from it"
    elif not shown_by.isdisjoint(map(tables.relations.get, resource.keys)):
        detail, repairable = "in status.tables: the next sync removes it", not resource.paused
    elif own is None:
        # never prunable: it may be all there is of this resource in the database
        detail = "the only row found, in neither spec.table nor status.tables"
    else:
        unsure = tables.uncertainty(resource) or ("" if row.relation.key in tables.certain else _UNCERTAIN)
        detail = unsure or "in neither spec.table nor status.tables"
        prunable = not unsure
    about = (row.id, row.relation.name, detail, (), row.place, row.relation.id_column)
    return Finding(kind, *about, repairable, prunable)


def _why_missing(resource: Resource, home: Relation | None) -> str:
    if resource.doc is None:
        return "the spec is invalid"
    if home is None:
        return f"the table does not exist, or has no column {resource.id_column}"
    if resource.paused:
        return "paused"
    return f"last sync: {resource.reason}" if resource.reason else "never synced"


def _distinct(rows: Iterable[Row]) -> list[Row]:
    """Leave out what is shown twice, by a partition and its parent; the one that stores the row is kept."""
    # of several with a place the last one stays
    stored_last = sorted(rows, key=lambda row: row.relation.oid == row.place[0])
    return list({row.place: row for row in stored_last}.values())
