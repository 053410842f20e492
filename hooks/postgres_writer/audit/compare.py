"""The comparison of all resources with all rows, in memory that does not grow with them."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any

from psycopg2 import extensions

from postgres_writer.audit.deletion import delete
from postgres_writer.audit.model import Finding, Resource, Row, judge, own_row, parse_resource
from postgres_writer.audit.resources import PAGE, Manifest, Source, ahead, from_file
from postgres_writer.audit.rows import Rows, id_of
from postgres_writer.audit.spool import Spool
from postgres_writer.core.audit_result import AuditResult, Kind
from postgres_writer.core.row import DEFAULT_SCHEMA, ID_COLUMN, KINDS, MAX_CHARACTERS, owner_of, relation_name
from postgres_writer.errors import AuditError, ConfigError, InvalidRequest, ListExpired

# etcd forgets the list after some minutes; larger pages take fewer requests, and so less time
# https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks
_LARGER_PAGE = 20 * PAGE
_FEW_IDS = 50  # so many single reads are quick, however short the list is
_BATCH = 500  # so many ids are compared at once, fewer where their documents are longer than one may be


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
    namespace: str | None = None
    tables: tuple[str, ...] = ()
    all_tables: bool = False
    confirm_after: float = 5.0
    timeout: float = 300.0
    schema: str = DEFAULT_SCHEMA

    def __post_init__(self) -> None:
        self.resources = self.rows = self.matched = 0
        self._reader = Rows(self.connection, self.timeout)

    def run(self, listed: IO[bytes] | None = None) -> None:
        """Note all findings; those that a second look does not confirm are dropped.

        ``listed`` is what kubectl printed, to be read instead of the cluster: it cannot be looked at a second time.
        Raises AuditError when resources or rows cannot be read, ConfigError for a table that is not there.
        """
        if listed is not None:
            self.spool.note_resources(self._parsed(from_file(listed)))
        else:
            pages = self.source.pages
            self._note(lambda page: self._parsed(ahead(pages(self.namespace, page))))
        self.resources = self.spool.count()
        named = {table: relation_name(table, self.schema) for table in self.tables}
        known, keys = self._reader.tables, self.spool.keys()
        vouched = {key for key in keys if key[0] in named.values()}
        vouched |= {(relation, ID_COLUMN) for relation in filter(None, named.values())}
        known.certain = self.spool.recorded_keys() | vouched
        self._reader.resolve(keys | known.certain, discover=self.all_tables)
        for table, relation in named.items():
            if not any(key[0] == relation for key in known.relations):
                raise ConfigError(f"--table {table}: there is no such table with a column {ID_COLUMN}.")
        with self._reader.snapshot():
            self.spool.add_findings(self._judged(self._reader.all(self.namespace)))
        if listed is None and (unconfirmed := self.spool.mark_unconfirmed()):
            time.sleep(max(0.0, self.confirm_after))
            self._recheck(unconfirmed)
        self.spool.add_findings(Finding(Kind.UNREADABLE, "", key[0], why) for key, why in known.unreadable.items())

    def result(self) -> AuditResult:
        """Return the numbers of what was found, without the times."""
        tables = len({name for name, _ in self._reader.tables.relations})
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
        relation = self._reader.tables.relations[finding.table, finding.id_column]
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

    def _parsed(self, pages: Iterable[list[Manifest]]) -> Iterator[Resource]:
        for manifest in itertools.chain.from_iterable(pages):
            try:
                resource = parse_resource(manifest, self.schema)
            except InvalidRequest as error:
                raise AuditError(f"The list holds something that is not a {' or '.join(KINDS)}: {error}") from error
            if self.namespace is None or owner_of(resource.id)[1] == self.namespace:
                yield resource

    def _recheck(self, unconfirmed: int) -> None:
        """Read resources and rows of the unconfirmed ids again: what was in progress is done by now."""
        self._note(lambda page: self._unconfirmed_resources(unconfirmed, page))
        # a resource may name another table by now
        self._reader.resolve(self.spool.keys() - self._reader.tables.relations.keys())
        # the second look must not be counted again
        counted = self.rows, self.matched
        with self._reader.snapshot():
            self.spool.add_findings(self._judged(self._reader.reread(self.spool.unconfirmed())))
        self.rows, self.matched = counted
        self.spool.keep_confirmed()

    def _unconfirmed_resources(self, unconfirmed: int, page: int) -> Iterator[Resource]:
        # whichever takes fewer requests: one for each id, or the list
        if unconfirmed <= max(_FEW_IDS, self.resources // PAGE):
            yield from filter(None, map(self.resource_now, list(self.spool.unconfirmed())))
        else:
            listed = self._parsed(ahead(self.source.pages(self.namespace, page)))
            yield from (resource for resource in listed if self.spool.is_unconfirmed(resource.id))

    def _judged(self, rows: Iterator[Row]) -> Iterator[Finding]:
        """Compare the resources with the rows: both come in the order of the ids."""
        # ids are ASCII, so SQLite, COLLATE "C" and Python sort them alike; of equal ones the resource comes first
        # read to its end before it is judged: by then every relation that fails is known to
        for batch in _batches(heapq.merge(self.spool.resources(), rows, key=id_of)):
            owned = [(its, mine, own_row(its, mine, self._reader.tables) if its else None) for its, mine in batch]
            differences = self._reader.compare((its, own) for its, _, own in owned if its and own and its.doc)
            for its, mine, own in owned:
                self.rows += len(mine)
                self.matched += its is not None and bool(mine)
                yield from judge(its, mine, own, self._reader.tables, differences.get(its.id) if its else None)


def _batches(merged: Iterable[Any]) -> Iterator[list[tuple[Resource | None, list[Row]]]]:
    """Give each resource with the rows of its id, which come behind it: as many at once as are compared at once."""
    batch, characters = [], 0
    for _, group in itertools.groupby(merged, key=id_of):
        rows = list(group)
        its = rows.pop(0) if isinstance(rows[0], Resource) else None
        batch.append((its, rows))
        characters += len(its.doc or "") if its else 0
        if len(batch) == _BATCH or characters >= MAX_CHARACTERS:
            yield batch
            batch, characters = [], 0
    yield batch
