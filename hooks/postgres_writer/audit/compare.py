"""The comparison of all resources with all rows, in memory that does not grow with them."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any

from postgres_writer.audit.deletion import delete
from postgres_writer.audit.model import Finding, KnownTables, Resource, Row, judge, own_row, parse_resource
from postgres_writer.audit.resources import PAGE, Manifest, Source, ahead, from_file
from postgres_writer.audit.rows import Rows, connect, id_of
from postgres_writer.audit.spool import Spool
from postgres_writer.config.settings import DatabaseConfig
from postgres_writer.core.audit_result import AuditResult, Fault
from postgres_writer.core.row import DEFAULT_SCHEMA, ID_COLUMN, KINDS, MAX_CHARACTERS, owner_of, relation_name
from postgres_writer.errors import AuditError, ConfigError, DatabaseUnreadable, InvalidRequest, ListExpired

# etcd forgets the list after some minutes; larger pages take fewer requests, and so less time
# https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks
_LARGER_PAGE = 20 * PAGE
_FEW_IDS = 50  # so many single reads are quick, however short the list is
_BATCH = 500  # so many ids are compared at once, fewer where their documents are longer than one may be


@dataclass
class Audit:
    """One comparison of resources and rows; the findings are in ``spool``.

    ``databases`` are those that are configured, by name, and ``unread`` says why others of them cannot be; ``only`` are
    the names of those to be compared, if not all. They are connected to one after the other.
    ``confirm_after``: seconds until findings are looked at again, and dropped if they passed. ``timeout``: the most
    seconds that PostgreSQL may take for a batch of one table's rows.
    """

    source: Source
    databases: Mapping[str, DatabaseConfig]
    spool: Spool
    unread: dict[str, str] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    namespace: str | None = None
    tables: tuple[str, ...] = ()
    all_tables: bool = False
    confirm_after: float = 5.0
    timeout: float = 300.0

    def __post_init__(self) -> None:
        self.resources = self.rows = 0
        self.matched: Counter[str] = Counter()  # the resources that have a row, by database
        self.configured = (*self.databases, *self.unread)
        self._names = self.only or self.configured
        self._known = {name: KnownTables() for name in self.configured}

    def run(self, listed: IO[bytes] | None = None) -> None:
        """Note all findings; those that a second look does not confirm are dropped.

        ``listed`` is what kubectl printed, to be read instead of the cluster: it cannot be looked at a second time.
        Raises AuditError when the resources or all databases cannot be read, ConfigError for a table that is not there.
        """
        if listed is not None:
            self.spool.note_resources(self._parsed(from_file(listed)))
        else:
            pages = self.source.pages
            self._note(lambda page: self._parsed(ahead(pages(self.namespace, page))))
        counted = self.spool.count()
        self.resources = sum(counted[name] for name in counted if name in self.only or not self.only)
        # also those that are not compared: two names may lead to one database
        self._each(self.databases, self._resolve)
        for table in self.tables:
            where = {(name, relation_name(table, self._schema(name))) for name in self._names}
            if not (where & self._relations() or self.unread.keys() & self._names):
                raise ConfigError(f"--table {table}: there is no such table with a column {ID_COLUMN}.")
        self._look(lambda reader, _: reader.all(self.namespace))
        if listed is None and (unconfirmed := self.spool.mark_unconfirmed()):
            time.sleep(max(0.0, self.confirm_after))
            self._recheck(unconfirmed)
        for name in self._names:
            unreadable = {("", ""): self.unread[name]} if name in self.unread else self._known[name].unreadable
            found = partial(Finding, Fault.UNREADABLE, "", database=name)
            self.spool.add_findings(found(table, why) for (table, _), why in unreadable.items())

    def result(self) -> AuditResult:
        """Return the numbers of what was found, without the times."""
        tables, found = len(self._relations()), self.spool.summary()
        return AuditResult(resources=self.resources, rows=self.rows, tables=tables, findings=found)

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
        relation = self._known[finding.database].relations[finding.table, finding.id_column]
        with closing(connect(self.databases[finding.database])) as connection:
            return delete(connection, relation, finding, lambda: self.resource_now(finding))

    def resource_now(self, finding: Finding) -> Resource | None:
        """Read the resource of a row from the API, if it can be one of the row's database."""
        resource = self._get(finding.id)
        return None if resource is None or resource.database in self._others(finding.database) else resource

    def _get(self, about: str) -> Resource | None:
        manifest = self.source.get(about)
        return None if manifest is None else parse_resource(manifest, self._schema)

    def _schema(self, name: str) -> str:
        return self.databases[name].schema if name in self.databases else DEFAULT_SCHEMA

    def _others(self, name: str) -> list[str]:
        """Return the databases that are certainly not the one of that name."""
        mine = self._known[name].identity
        return [other for other, known in self._known.items() if mine and known.identity not in (None, mine)]

    def _relations(self) -> set[tuple[str, str]]:
        return {(name, table) for name in self._names for table, _ in self._known[name].relations}

    def _each(self, names: Iterable[str], step: Callable[[Rows, str], None]) -> None:
        """Do a step with each database that can be read. Raises AuditError when none is left to be compared."""
        for name in names:
            if name not in self.unread:
                try:
                    with closing(connect(self.databases[name])) as connection:
                        step(Rows(connection, self.timeout, self._known[name]), name)
                except (DatabaseUnreadable, ConfigError) as error:
                    self.unread[name] = str(error)
        if self.unread.keys() >= set(self._names):
            about = f"Database {self._names[0]}: " if len(self.configured) > 1 else ""
            raise AuditError(f"{about}{self.unread[self._names[0]]}")

    def _resolve(self, reader: Rows, name: str) -> None:
        keys = self.spool.keys(name)
        named = {relation_name(table, self._schema(name)) for table in self.tables}
        vouched = {key for key in keys if key[0] in named}
        vouched |= {(relation, ID_COLUMN) for relation in filter(None, named)}
        reader.tables.certain = self.spool.recorded_keys(name) | vouched
        reader.identify()
        reader.resolve(keys | reader.tables.certain, discover=self.all_tables)

    def _look(self, rows: Callable[[Rows, str], Iterator[Row]]) -> None:
        """Compare the databases with the resources that are noted."""

        def compare(reader: Rows, name: str) -> None:
            # a resource may name another table by now
            reader.resolve(self.spool.keys(name) - reader.tables.relations.keys())
            with reader.snapshot():
                self.spool.add_findings(self._judged(reader, name, rows(reader, name)))

        self._each(self._names, compare)
        if not self.only:
            nowhere = self.spool.resources(self.configured)
            found = partial(Finding, Fault.UNREADABLE, detail="its database is not configured")
            self.spool.add_findings(found(its.id, its.table, database=its.database) for its in nowhere)

    def _note(self, resources: Callable[[int], Iterator[Resource]]) -> None:
        """Note the resources that a list in pages of that size gives; an expired one begins again with larger pages."""
        try:
            self.spool.note_resources(resources(PAGE))
        except ListExpired:
            self.spool.note_resources(resources(_LARGER_PAGE))

    def _parsed(self, pages: Iterable[list[Manifest]]) -> Iterator[Resource]:
        for manifest in itertools.chain.from_iterable(pages):
            try:
                resource = parse_resource(manifest, self._schema)
            except InvalidRequest as error:
                raise AuditError(f"The list holds something that is not a {' or '.join(KINDS)}: {error}") from error
            if self.namespace is None or owner_of(resource.id)[1] == self.namespace:
                yield resource

    def _recheck(self, unconfirmed: int) -> None:
        """Read resources and rows of the unconfirmed ids again: what was in progress is done by now."""
        self._note(lambda page: self._unconfirmed_resources(unconfirmed, page))
        # the second look must not be counted again
        counted = self.rows, self.matched.copy()
        self._look(lambda reader, name: reader.reread(self.spool.unconfirmed(name)))
        self.rows, self.matched = counted
        self.spool.keep_confirmed()

    def _unconfirmed_resources(self, unconfirmed: int, page: int) -> Iterator[Resource]:
        # whichever takes fewer requests: one for each id, or the list
        if unconfirmed <= max(_FEW_IDS, self.resources // PAGE):
            yield from filter(None, map(self._get, list(self.spool.unconfirmed())))
        else:
            listed = self._parsed(ahead(self.source.pages(self.namespace, page)))
            yield from (resource for resource in listed if self.spool.is_unconfirmed(resource.id))

    def _judged(self, reader: Rows, name: str, rows: Iterator[Row]) -> Iterator[Finding]:
        """Compare the resources with the rows: both come in the order of the ids."""
        # ids are ASCII, so SQLite, COLLATE "C" and Python sort them alike; of equal ones the resource comes first
        # read to its end before it is judged: by then every relation that fails is known to
        known, resources = reader.tables, self.spool.resources(self._others(name))
        for batch in _batches(heapq.merge(resources, rows, key=id_of)):
            # what belongs to another name, which may lead to the same database, is not judged by this one
            here = ((its, mine) for its, mine in batch if its is None or its.database == name)
            owned = [(its, mine, own_row(its, mine, known) if its else None) for its, mine in here]
            differences = reader.compare((its, own) for its, _, own in owned if its and own and its.doc)
            for its, mine, own in owned:
                self.rows += len(mine)
                self.matched[name] += its is not None and bool(mine)
                findings = judge(its, mine, own, known, differences.get(its.id) if its else None)
                yield from (finding._replace(database=name) for finding in findings)


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
