"""What the resources say beside what the rows say: (resource, rows of its id) -> findings. Pure.

A row is known by its table's oid and its place there, not by how a table is spelled: `students` and
`public.students` are one table, and a partition shows the same rows as its parent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from postgres_writer.core.request import load_request
from postgres_writer.errors import Reason

COLUMNS = ("name", "age", "country")


class Kind(str, Enum):
    """The kinds of findings, in the order in which they are shown."""

    MISSING = "missing"
    DIFFERS = "differs"
    DUPLICATE = "duplicate"
    NO_RESOURCE = "no-resource"
    UNMANAGED = "unmanaged"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Resource:
    """A PostgresWriter as the audit needs it. ``values`` is None when the spec is invalid."""

    id: str
    table: str | None
    values: tuple[str, int, str] | None
    tables: tuple[str, ...]
    reason: str
    paused: bool
    deleting: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A table or view of the database. ``label`` is its quoted name, ``kind`` its relkind."""

    oid: int
    label: str
    kind: str
    estimate: float = 0.0

    @property
    def stores_rows(self) -> bool:
        """Whether rows seen here are its own; a view only shows those of other tables."""
        return self.kind in ("r", "p")


@dataclass(frozen=True, slots=True)
class Row:
    """A row as one relation shows it. ``place`` is where it is stored, whichever relation shows it."""

    id: str
    relation: Relation
    place: tuple[Any, ...]
    values: tuple[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. ``differences`` holds (column, value of the resource, of the row)."""

    kind: Kind
    id: str
    table: str
    detail: str = ""
    differences: tuple[tuple[str, Any, Any], ...] = ()
    values: tuple[Any, ...] = ()
    repairable: bool = False
    prunable: bool = False


@dataclass(frozen=True)
class Tables:
    """What the spellings of tables stand for; ``unreadable`` are the oids whose rows could not be read."""

    relations: Mapping[str, Relation]
    unreadable: Mapping[int, str]

    def home(self, resource: Resource) -> Relation | None:
        """Give the relation into which the resource's row belongs."""
        return self.relations.get(resource.table) if resource.table else None

    def listed(self, resource: Resource) -> set[int]:
        """Give the oids of status.tables."""
        return {self.relations[table].oid for table in resource.tables if table in self.relations}


def parse_resource(manifest: dict[str, Any]) -> Resource:
    """Read a PostgresWriter as the hooks do. Raises InvalidRequest when it has no namespace and name."""
    request = load_request({"parent": manifest})
    spec = request.spec
    return Resource(
        id=request.id,
        table=request.table,
        values=(spec.name, spec.age, spec.country) if spec else None,
        tables=request.status.tables,
        reason=request.status.ready.reason if request.status.ready else "",
        paused=request.paused,
        deleting=request.deleting,
    )


def judge(resource: Resource | None, rows: list[Row], tables: Tables) -> Iterator[Finding]:
    """Compare a resource (or None) with all rows of its id."""
    if resource is None:
        for row in _distinct(rows):
            yield Finding(Kind.NO_RESOURCE, row.id, row.relation.label, values=row.values, prunable=True)
    elif resource.reason == Reason.UNMANAGED.value and not resource.deleting:
        detail = "the controller's selector does not match it; its row is the user's own"
        yield Finding(Kind.UNMANAGED, resource.id, resource.table or "", detail)
    elif not resource.deleting:
        yield from _judge_managed(resource, rows, tables)


def is_surplus(resource: Resource | None, relation: Relation, tables: Tables) -> bool:
    """Say whether a row in ``relation`` belongs to no resource: nobody but a person will ever remove it."""
    if resource is None:
        return True
    if resource.deleting or resource.reason == Reason.UNMANAGED.value:
        return False
    home = tables.home(resource)
    known = home is not None and home.stores_rows and relation.stores_rows
    return known and home != relation and relation.oid not in tables.listed(resource)


def _judge_managed(resource: Resource, rows: list[Row], tables: Tables) -> Iterator[Finding]:
    home = tables.home(resource)
    own = next((row for row in rows if home is not None and row.relation.oid == home.oid), None)
    table = resource.table or ""
    if own is None:
        if home is None or home.oid not in tables.unreadable:
            repairable = resource.values is not None and not resource.paused
            yield Finding(Kind.MISSING, resource.id, table, _why_missing(resource, home), repairable=repairable)
    elif resource.values is not None and resource.values != own.values:
        pairs = zip(COLUMNS, resource.values, own.values, strict=True)
        differences = tuple((column, wanted, found) for column, wanted, found in pairs if wanted != found)
        detail = "paused" if resource.paused else ""
        yield Finding(Kind.DIFFERS, resource.id, table, detail, differences, repairable=not resource.paused)
    for row in _distinct(rows):
        elsewhere = row.relation.stores_rows and home is not None and home.stores_rows
        if elsewhere and row.relation != home and (own is None or row.place != own.place):
            surplus = is_surplus(resource, row.relation, tables)
            detail = (
                "in neither spec.table nor status.tables" if surplus else "in status.tables: the next sync removes it"
            )
            yield Finding(
                Kind.DUPLICATE,
                resource.id,
                row.relation.label,
                detail,
                values=row.values,
                repairable=not surplus and not resource.paused,
                prunable=surplus,
            )


def _why_missing(resource: Resource, home: Relation | None) -> str:
    if resource.values is None:
        return "the spec is invalid"
    if home is None:
        return "the table does not exist"
    if resource.paused:
        return "paused"
    return f"last sync: {resource.reason}" if resource.reason else "never synced"


def _distinct(rows: list[Row]) -> list[Row]:
    """Leave out what is shown twice: a partition's row through its parent, a table's row through a view."""
    stored = {row.place: row for row in rows if row.relation.stores_rows}
    return list(stored.values()) or [row for row in rows if not row.relation.stores_rows]
