"""The comparison of all resources with all rows, in memory that does not grow with them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import IO, Literal

from psycopg2 import extensions

from postgres_writer.audit.deletion import delete
from postgres_writer.audit.manifests import manifests
from postgres_writer.audit.model import Finding, Relation, Resource, Row, Tables, is_well, judge, parse_resource
from postgres_writer.audit.resources import PAGE, Manifest, Source, ahead, from_file
from postgres_writer.audit.rows import Rows
from postgres_writer.audit.spool import Spool
from postgres_writer.core.audit_result import AuditResult, Kind
from postgres_writer.errors import AuditError, ConfigError, InvalidRequest, ListExpired

# etcd forgets the list after some minutes; larger pages take fewer requests, and so less time
# https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks
_LARGER_PAGES = (PAGE, 5 * PAGE, 20 * PAGE)
# beyond these numbers one list takes fewer requests than many single reads
_FEW_NAMESPACES = 20
_FEW_IDS = 50
_BATCH = 1000

Side = Literal["resources", "rows"]
Progress = Callable[[Side, int, float], object]
"""(side, how many more were read, how many there are in all as far as is known)."""


@dataclass(frozen=True)
class Options:
    """What to compare. ``confirm_after``: seconds until findings are looked at again, and dropped if they passed.

    ``timeout``: the most seconds that PostgreSQL may take for a batch of one table's rows.
    """

    namespace: str | None = None
    tables: tuple[str, ...] = ()
    all_tables: bool = False
    confirm_after: float = 5.0
    timeout: float = 300.0


class Audit:
    """One comparison of resources and rows; the findings are in ``spool``."""

    def __init__(
        self,
        options: Options,
        source: Source | None,
        connection: extensions.connection,
        spool: Spool,
        progress: Progress = lambda *_: None,
    ) -> None:
        self.spool = spool
        self.relations: list[Relation] = []
        self.resources = 0
        self.rows = 0
        self.matched = 0
        self._options = options
        self._source = source
        self._connection = connection
        self._reader = Rows(connection, options.timeout)
        self._progress = progress
        self._found = Tables({}, {})
        self._listed_tables: set[str] = set()
        self._spellings: dict[str, str] = {}

    def look(self, listed: IO[bytes] | None = None) -> None:
        """Note all findings; those that a second look does not confirm are dropped.

        ``listed`` is what kubectl printed, to be read instead of the cluster: it cannot be looked at a second time.
        Raises AuditError when resources or rows cannot be read, ConfigError for a table that is not there.
        """
        if listed is not None:
            self.spool.add_resources(self._parsed(self._counted(from_file(listed))))
        else:
            pages = self.source.pages
            self._note(lambda page: self._parsed(self._counted(ahead(pages(self._options.namespace, page)))))
        self.resources = self.spool.count()
        names = self.spool.tables() | set(self._options.tables)
        tables, self.relations = self._reader.resolve(names, discover=self._options.all_tables)
        self._found = tables
        self._listed_tables = self.spool.listed_tables()
        missing = [table for table in self._options.tables if table not in tables.relations]
        if missing:
            raise ConfigError(f"--table {missing[0]}: there is no such table.")
        unreadable: dict[int, str] = {}
        self._compare(self._known(tables, unreadable))
        if listed is None and (unconfirmed := self.spool.mark_unconfirmed()):
            time.sleep(max(0.0, self._options.confirm_after))
            self._recheck(tables, unreadable, unconfirmed)
        self.spool.add_findings(_unreadable(unreadable, self.relations))

    def result(self, finished: float, seconds: float) -> AuditResult:
        """Return the numbers of what was found, for /metrics; ``finished`` in Unix time."""
        return AuditResult(finished, seconds, self.resources, self.rows, len(self.relations), self.spool.summary())

    def repair(self) -> int:
        """Ask Metacontroller for a sync of everything that a sync fixes; gives how many resources that are."""
        wanted = (finding.id for finding in self.spool.findings() if finding.repairable)
        number = 0
        # a resource may have several findings, and one sync fixes them all
        while batch := list(dict.fromkeys(itertools.islice(wanted, _BATCH))):
            self.source.request_sync(batch, now())
            number += len(batch)
        return number

    def delete(self, finding: Finding) -> str:
        """Delete the row of a prunable finding; gives why it was kept, or an empty text."""
        relation = next(known for known in self.relations if known.label == finding.table)
        return delete(self._connection, relation, finding, lambda: self.resource_now(finding.id))

    def manifests(self) -> Iterator[tuple[str, Manifest | str]]:
        """Yield (id, PostgresWriter) for each row without a resource, or (id, why it can have none)."""
        return manifests(self.spool.findings(), self._spelling)

    def _spelling(self, label: str) -> str:
        """Give what spec.table says for a relation: as others spell it, else without the schema where that is certain.

        A table policy speaks of the names as they are written, and nearly all are written without a schema.
        """
        if label not in self._spellings:
            known = {name: relation.label for name, relation in self._found.relations.items()}
            bare = label.rpartition(".")[2]
            again, _ = self._reader.resolve([bare])
            known |= {name: relation.label for name, relation in again.relations.items()}
            unsure = {*self._found.ambiguous, *again.ambiguous}
            fitting = [name for name, its in known.items() if its == label and name not in unsure]
            # the shortest has no schema, if one without is certain
            self._spellings[label] = min(fitting, key=len, default=label)
        return self._spellings[label]

    def resource_now(self, about: str) -> Resource | None:
        """Read a resource from the API."""
        manifest = self.source.get(about)
        return None if manifest is None else parse_resource(manifest)

    @property
    def source(self) -> Source:
        """The cluster. Raises AuditError when a list was given instead."""
        if self._source is None:
            raise AuditError("This needs the cluster: omit FILE.")
        return self._source

    def _note(self, resources: Callable[[int], Iterator[Resource]]) -> None:
        """Note the resources that a list in pages of that size gives; an expired one begins again with larger pages."""
        for page in _LARGER_PAGES:
            self.spool.clear_resources()
            try:
                self.spool.add_resources(resources(page))
            except ListExpired:
                if page == _LARGER_PAGES[-1]:
                    raise
            else:
                return

    def _counted(self, pages: Iterable[tuple[list[Manifest], int]]) -> Iterator[Manifest]:
        """Report the progress; of a printed list it is not known how many are still to come."""
        seen = 0
        for items, remaining in pages:
            seen += len(items)
            self._progress("resources", len(items), seen + remaining)
            yield from items

    def _parsed(self, manifests: Iterable[Manifest]) -> Iterator[Resource]:
        namespace = self._options.namespace
        for manifest in manifests:
            try:
                resource = parse_resource(manifest)
            except InvalidRequest as error:
                raise AuditError(f"The list holds something that is not a PostgresWriter: {error}") from error
            if namespace is None or resource.id.startswith(f"{namespace}/"):
                yield resource

    def _compare(self, tables: Tables) -> None:
        total = sum(relation.estimate for relation in self.relations)
        read = 0

        def count(number: int) -> None:
            nonlocal read
            read += number
            self._progress("rows", number, max(total, read))

        with self._reader.snapshot(self.relations, self._options.namespace, tables.unreadable, count) as rows:
            self.spool.add_findings(self._judged(self.spool.resources(), rows, tables))

    def _known(self, found: Tables, unreadable: dict[int, str]) -> Tables:
        """Say what is known of the tables: those that a status lists, and those that the user names, are ours."""
        listed = (self._listed_tables - set(found.ambiguous)) | set(self._options.tables)
        certain = {relation.oid for name, relation in found.relations.items() if name in listed}
        uncertain = {relation.oid for relation in self.relations} - certain
        return Tables(found.relations, unreadable, found.ambiguous, uncertain)

    def _recheck(self, before: Tables, unreadable: dict[int, str], unconfirmed: int) -> None:
        """Read resources and rows of the unconfirmed ids again: what was in progress is done by now."""
        self._note(lambda page: self._unconfirmed_resources(unconfirmed, page))
        # a resource may name another table by now
        new, their_relations = self._reader.resolve(self.spool.tables() - before.relations.keys())
        found = Tables({**before.relations, **new.relations}, {}, {*before.ambiguous, *new.ambiguous})
        self.relations = list(dict.fromkeys([*self.relations, *their_relations]))
        rows = self._reader.again(self.relations, unreadable, self.spool.unconfirmed())
        # the second look must not be counted again
        counted = self.rows, self.matched
        self.spool.add_findings(self._judged(self.spool.resources(), rows, self._known(found, unreadable)))
        self.rows, self.matched = counted
        self.spool.keep_confirmed()

    def _unconfirmed_resources(self, unconfirmed: int, page: int) -> Iterator[Resource]:
        if unconfirmed <= _FEW_IDS:
            found = (self.resource_now(about) for about in list(self.spool.unconfirmed()))
            yield from (resource for resource in found if resource is not None)
            return
        namespaces: list[str | None] = [*self.spool.unconfirmed_namespaces()]
        if len(namespaces) > _FEW_NAMESPACES:
            namespaces = [self._options.namespace]
        for namespace in namespaces:
            for items, _ in ahead(self.source.pages(namespace, page)):
                yield from (found for found in self._parsed(items) if self.spool.is_unconfirmed(found.id))

    def _judged(self, resources: Iterator[Resource], rows: Iterator[Row], tables: Tables) -> Iterator[Finding]:
        """Walk through both in the order of the ids, like the merge of two sorted lists."""
        groups = itertools.groupby(rows, key=lambda row: row.id)
        resource, group = next(resources, None), next(groups, None)
        while resource is not None or group is not None:
            # ids are ASCII, so SQLite, COLLATE "C" and Python sort them alike
            about = min(found for found in (resource and resource.id, group and group[0]) if found)
            # the group is read to its end before it is judged: by then every relation that fails is known to
            mine = list(group[1]) if group is not None and group[0] == about else []
            its = resource if resource is not None and resource.id == about else None
            self.rows += len(mine)
            if its is not None and len(mine) == 1 and is_well(its, mine[0], tables):
                self.matched += 1
            else:
                self.matched += its is not None and bool(mine)
                yield from judge(its, mine, tables)
            resource = next(resources, None) if its is not None else resource
            group = next(groups, None) if mine else group


def chosen_findings(spool: Spool, ids: Iterable[str], namespace: str | None) -> list[Finding]:
    """Return the findings to prune: those of the ids given, or all of the namespace.

    Raises AuditError when an id has no row that belongs to no resource.
    """
    prunable = [
        finding
        for finding in spool.findings()
        if finding.prunable and (namespace is None or finding.id.startswith(f"{namespace}/"))
    ]
    wanted = set(ids)
    if not wanted:
        return prunable
    unknown = sorted(wanted - {finding.id for finding in prunable})
    if unknown:
        raise AuditError(f"No row without a resource has the id {', '.join(unknown)}: run the audit to list them.")
    return [finding for finding in prunable if finding.id in wanted]


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _unreadable(unreadable: dict[int, str], relations: list[Relation]) -> Iterator[Finding]:
    for relation in relations:
        if relation.oid in unreadable:
            yield Finding(Kind.UNREADABLE, "", relation.label, unreadable[relation.oid])
