"""The comparison of all resources with all rows, in memory that does not grow with them."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Literal

from psycopg2 import extensions

from postgres_writer.audit.deletion import delete
from postgres_writer.audit.model import Finding, Resource, Row, judge, parse_resource
from postgres_writer.audit.resources import PAGE, Manifest, Source, ahead, from_file
from postgres_writer.audit.rows import Rows, id_of
from postgres_writer.audit.spool import Spool
from postgres_writer.core.audit_result import AuditResult, Kind
from postgres_writer.core.row import DEFAULT_SCHEMA, relation_name
from postgres_writer.errors import AuditError, ConfigError, InvalidRequest, ListExpired

# etcd forgets the list after some minutes; larger pages take fewer requests, and so less time
# https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks
_LARGER_PAGE = 20 * PAGE
# so many single reads are quick, however short the list is
_FEW_IDS = 50

Side = Literal["resources", "rows"]
Progress = Callable[[Side, int], object]
"""(side, how many more were read)."""


@dataclass
class Audit:
    """One comparison of resources and rows; the findings are in ``spool``.

    ``schema`` is that of tables without one in their name, in resources and in ``tables``.
    ``confirm_after``: seconds until findings are looked at again, and dropped if they passed. ``timeout``: the most
    seconds that PostgreSQL may take for a batch of one table's rows.
    """

    source: Source
    connection: extensions.connection
    spool: Spool
    progress: Progress = lambda *_: None
    namespace: str | None = None
    tables: tuple[str, ...] = ()
    all_tables: bool = False
    confirm_after: float = 5.0
    timeout: float = 300.0
    schema: str = DEFAULT_SCHEMA

    def __post_init__(self) -> None:
        self.resources = self.rows = self.matched = 0
        self._reader = Rows(self.connection, self.timeout)

    def look(self, listed: IO[bytes] | None = None) -> None:
        """Note all findings; those that a second look does not confirm are dropped.

        ``listed`` is what kubectl printed, to be read instead of the cluster: it cannot be looked at a second time.
        Raises AuditError when resources or rows cannot be read, ConfigError for a table that is not there.
        """
        if listed is not None:
            self.spool.note_resources(self._parsed(self._counted(from_file(listed))))
        else:
            pages = self.source.pages
            self._note(lambda page: self._parsed(self._counted(ahead(pages(self.namespace, page)))))
        self.resources = self.spool.count()
        named = {table: relation_name(table, self.schema) for table in self.tables}
        known = self._reader.tables
        known.certain = self.spool.recorded_tables().union(filter(None, named.values()))
        self._reader.resolve(self.spool.tables() | known.certain, discover=self.all_tables)
        for table, relation in named.items():
            if relation not in known.relations:
                raise ConfigError(f"--table {table}: there is no such table.")
        with self._reader.snapshot(self.namespace, lambda number: self.progress("rows", number)) as rows:
            self.spool.add_findings(self._judged(rows))
        if listed is None and (unconfirmed := self.spool.mark_unconfirmed()):
            time.sleep(max(0.0, self.confirm_after))
            self._recheck(unconfirmed)
        self.spool.add_findings(Finding(Kind.UNREADABLE, "", name, why) for name, why in known.unreadable.items())

    def result(self) -> AuditResult:
        """Return the numbers of what was found, without the times."""
        tables = len(self._reader.tables.relations)
        return AuditResult(resources=self.resources, rows=self.rows, tables=tables, findings=self.spool.summary())

    def prunable(self, ids: Iterable[str]) -> list[Finding]:
        """Return the findings to prune: those of the ids given, or all. Raises AuditError for an id that has none."""
        prunable = [finding for finding in self.spool.findings() if finding.prunable]
        wanted = set(ids)
        unknown = sorted(wanted - {finding.id for finding in prunable})
        if unknown:
            raise AuditError(f"No row without a resource has the id {', '.join(unknown)}: run the audit to list them.")
        return [finding for finding in prunable if not wanted or finding.id in wanted]

    def delete(self, finding: Finding) -> str:
        """Delete the row of a prunable finding; gives why it was kept, or an empty text."""
        relation = self._reader.tables.relations[finding.table]
        return delete(self.connection, relation, finding, lambda: self.resource_now(finding.id))

    def resource_now(self, about: str) -> Resource | None:
        """Read a resource from the API."""
        manifest = self.source.get(about)
        return None if manifest is None else parse_resource(manifest, self.schema)

    def _note(self, resources: Callable[[int], Iterator[Resource]]) -> None:
        """Note the resources that a list in pages of that size gives; an expired one begins again with larger pages."""
        try:
            self.spool.note_resources(resources(PAGE))
        except ListExpired:
            self.spool.note_resources(resources(_LARGER_PAGE))

    def _counted(self, pages: Iterable[list[Manifest]]) -> Iterator[Manifest]:
        for items in pages:
            self.progress("resources", len(items))
            yield from items

    def _parsed(self, manifests: Iterable[Manifest]) -> Iterator[Resource]:
        for manifest in manifests:
            try:
                resource = parse_resource(manifest, self.schema)
            except InvalidRequest as error:
                raise AuditError(f"The list holds something that is not a PostgresWriter: {error}") from error
            if self.namespace is None or resource.id.startswith(f"{self.namespace}/"):
                yield resource

    def _recheck(self, unconfirmed: int) -> None:
        """Read resources and rows of the unconfirmed ids again: what was in progress is done by now."""
        self._note(lambda page: self._unconfirmed_resources(unconfirmed, page))
        # a resource may name another table by now
        self._reader.resolve(self.spool.tables() - self._reader.tables.relations.keys())
        # the second look must not be counted again
        counted = self.rows, self.matched
        self.spool.add_findings(self._judged(self._reader.again(self.spool.unconfirmed())))
        self.rows, self.matched = counted
        self.spool.keep_confirmed()

    def _unconfirmed_resources(self, unconfirmed: int, page: int) -> Iterator[Resource]:
        # whichever takes fewer requests: one for each id, or the list
        if unconfirmed <= max(_FEW_IDS, self.resources // PAGE):
            yield from filter(None, map(self.resource_now, list(self.spool.unconfirmed())))
        else:
            for items in ahead(self.source.pages(self.namespace, page)):
                yield from (resource for resource in self._parsed(items) if self.spool.is_unconfirmed(resource.id))

    def _judged(self, rows: Iterator[Row]) -> Iterator[Finding]:
        """Compare the resources with the rows: both come in the order of the ids."""
        # ids are ASCII, so SQLite, COLLATE "C" and Python sort them alike; of equal ones the resource comes first
        merged = heapq.merge(self.spool.resources(), rows, key=id_of)
        for _, group in itertools.groupby(merged, key=id_of):
            # read to its end before it is judged: by then every relation that fails is known to
            mine: list[Any] = list(group)
            its = mine.pop(0) if isinstance(mine[0], Resource) else None
            self.rows += len(mine)
            self.matched += its is not None and bool(mine)
            yield from judge(its, mine, self._reader.tables)
