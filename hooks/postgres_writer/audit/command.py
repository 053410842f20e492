"""`postgres-writer audit`: compare the resources with the rows, in memory that does not grow with them."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import click

from postgres_writer.audit.actions import Prune, chosen_findings, repair
from postgres_writer.audit.model import Finding, Kind, Relation, Resource, Row, Tables, judge, parse_resource
from postgres_writer.audit.report import write_json, write_table
from postgres_writer.audit.resources import PAGE, AuditError, Kubectl, ListExpired, from_file, is_id, is_namespace
from postgres_writer.audit.rows import Rows
from postgres_writer.audit.spool import Spool
from postgres_writer.config.settings import DatabaseConfig
from postgres_writer.errors import ConfigError, InvalidRequest

_LARGER_PAGES = (PAGE, 5 * PAGE, 20 * PAGE)
_FEW_NAMESPACES = 20


def run(arguments: SimpleNamespace) -> int:
    """Audit; returns the exit code.

    Raises ConfigError for unusable arguments and AuditError when resources or rows cannot be read.
    """
    # what follows --prune are ids, otherwise it is the file
    arguments.ids, files = (arguments.arguments, ()) if arguments.prune else ((), arguments.arguments)
    _check(arguments, files)
    arguments.file = files[0] if files else None
    with closing(Spool()) as spool, closing(Rows(DatabaseConfig.from_env(os.environ))) as rows:
        audit = Audit(arguments, spool, rows)
        audit.look()
        if arguments.prune:
            return audit.prune()
        audit.report()
        if arguments.repair:
            number = repair(spool, audit.kubectl)
            sys.stderr.write(f"A sync was asked for {number} resource{'' if number == 1 else 's'}; look again soon.\n")
        return int(bool(spool.summary()))


def _check(arguments: SimpleNamespace, files: Sequence[str]) -> None:
    if arguments.repair and arguments.prune:
        raise ConfigError("--repair and --prune are two things: give one of them.")
    if len(files) > 1:
        raise ConfigError(f"There can be only one FILE, and ids need --prune: {' '.join(files)}.")
    if files and (arguments.repair or arguments.context):
        raise ConfigError("--context, --repair and --prune call kubectl: leave FILE out.")
    if arguments.prune and not arguments.ids and not arguments.namespace:
        raise ConfigError("--prune needs the ids of rows, or --namespace.")
    if arguments.namespace is not None and not is_namespace(arguments.namespace):
        raise ConfigError(f"--namespace cannot be {arguments.namespace!r}: it is no name of a namespace.")
    unshaped = [row for row in arguments.ids if not is_id(row)]
    if unshaped:
        raise ConfigError(f"--prune takes ids shaped <namespace>/<name>, not {unshaped[0]!r}.")
    if arguments.yes and not arguments.prune:
        raise ConfigError("--yes goes with --prune only.")


class Audit:
    """One comparison of resources and rows."""

    def __init__(self, arguments: SimpleNamespace, spool: Spool, rows: Rows) -> None:
        self._arguments = arguments
        self._spool = spool
        self._rows = rows
        self._row_count = 0
        self._relations: list[Relation] = []
        self._resource_count = 0
        self.kubectl = Kubectl(arguments.context)

    def look(self) -> None:
        """Note all findings; those that a second look does not confirm are dropped."""
        arguments = self._arguments
        if arguments.file:
            with _opened(arguments.file) as file:
                self._spool.add_resources(self._parsed(from_file(file)))
        else:
            self._list()
        self._resource_count = self._spool.count()
        names = self._spool.tables() | set(arguments.table)
        known, self._relations = self._rows.resolve(names, discover=arguments.all_tables)
        missing = [table for table in arguments.table if table not in known]
        if missing:
            raise ConfigError(f"--table {missing[0]}: there is no such table.")
        tables = self._compare(known)
        if not arguments.file and self._spool.doubt():
            time.sleep(max(0.0, arguments.confirm_after))
            self._look_again(tables)

    def report(self) -> None:
        """Print what was found."""
        write = write_json if self._arguments.output == "json" else write_table
        counts: dict[str, object] = {
            "resources": self._resource_count,
            "rows": self._row_count,
            "tables": len(self._relations),
        }
        write(self._spool, counts, sys.stdout, show_values=self._arguments.show_values)

    def prune(self) -> int:
        """Delete the rows that were asked for; returns the exit code."""
        arguments = self._arguments
        chosen = chosen_findings(self._spool, arguments.ids, arguments.namespace)
        if chosen and not arguments.ids and not self._resource_count:
            # the likeliest cause of a namespace without a single resource is the wrong context
            raise AuditError(
                f"Namespace {arguments.namespace} has no PostgresWriter at all in the context of kubectl "
                f"({self.kubectl.describe()}): if that is right, name the rows by their ids."
            )
        deletion = Prune(self._rows, self.kubectl, self._relations)
        return int(not deletion.run(chosen, confirmed=arguments.yes, show_values=arguments.show_values))

    def _list(self) -> None:
        """Note all resources of the cluster; a list that expires on the way begins anew with larger pages."""
        for page in _LARGER_PAGES:
            self._spool.clear_resources()
            try:
                self._spool.add_resources(self._parsed(self._listed(page)))
            except ListExpired:
                if page == _LARGER_PAGES[-1]:
                    raise
            else:
                return

    def _listed(self, page: int) -> Iterator[dict[str, Any]]:
        with _progress("resources", 1) as progress:
            for items, remaining in self.kubectl.pages(self._arguments.namespace, page):
                progress.length = progress.pos + len(items) + remaining
                progress.update(len(items))
                yield from items

    def _parsed(self, manifests: Iterable[dict[str, Any]]) -> Iterator[Resource]:
        namespace = self._arguments.namespace
        for manifest in manifests:
            try:
                resource = parse_resource(manifest)
            except InvalidRequest as error:
                raise AuditError(f"The list holds something that is no PostgresWriter: {error}") from error
            if namespace is None or resource.id.startswith(f"{namespace}/"):
                yield resource

    def _compare(self, known: dict[str, Relation]) -> Tables:
        with _progress("rows", sum(relation.estimate for relation in self._relations)) as progress:
            snapshot = self._rows.snapshot(known, self._relations, self._arguments.namespace, progress.update)
            with snapshot as (tables, rows):
                self._spool.add_findings(_unreadable(tables, self._relations))
                self._spool.add_findings(_judged(self._spool.resources(), self._counted(rows), tables))
        return tables

    def _counted(self, rows: Iterator[Row]) -> Iterator[Row]:
        for row in rows:
            self._row_count += 1
            yield row

    def _look_again(self, tables: Tables) -> None:
        """Read resources and rows of the doubted ids anew: what was just under way is done by now."""
        namespaces: list[str | None] = [*self._spool.doubted_namespaces()]
        if len(namespaces) > _FEW_NAMESPACES:
            namespaces = [self._arguments.namespace]
        self._spool.clear_resources()
        for namespace in namespaces:
            for items, _ in self.kubectl.pages(namespace):
                parsed = self._parsed(items)
                self._spool.add_resources(found for found in parsed if self._spool.is_doubted(found.id))
        new, their_relations = self._rows.resolve(self._spool.tables() - tables.relations.keys())
        now = Tables({**tables.relations, **new}, tables.unreadable)
        relations = list(dict.fromkeys([*self._relations, *their_relations]))
        rows = self._rows.again(now, relations, self._spool.doubted())
        self._spool.add_findings(_judged(self._spool.resources(), rows, now))
        self._spool.keep_confirmed()


def _judged(resources: Iterator[Resource], rows: Iterator[Row], tables: Tables) -> Iterator[Finding]:
    """Walk through both in the order of the ids, like the merge of two sorted lists."""
    groups = itertools.groupby(rows, key=lambda row: row.id)
    resource, group = next(resources, None), next(groups, None)
    while resource is not None or group is not None:
        about = min(found for found in (resource and resource.id, group and group[0]) if found)
        has_resource, has_rows = resource is not None and resource.id == about, group is not None and group[0] == about
        yield from judge(
            resource if has_resource else None, list(group[1]) if group is not None and has_rows else [], tables
        )
        resource = next(resources, None) if has_resource else resource
        group = next(groups, None) if has_rows else group


def _unreadable(tables: Tables, relations: list[Relation]) -> Iterator[Finding]:
    for relation in relations:
        if relation.oid in tables.unreadable:
            yield Finding(Kind.UNREADABLE, "", relation.label, tables.unreadable[relation.oid])


def _opened(file: str) -> IO[bytes]:
    if file == "-":
        return sys.stdin.buffer
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise AuditError(f"The list of resources cannot be read: {file} ({error.strerror}).") from error


@contextlib.contextmanager
def _progress(what: str, total: float) -> Iterator[Any]:
    """Give a progress bar that shows only on a terminal, and is gone at the end."""
    shown = sys.stderr.isatty()
    with click.progressbar(length=int(total), label=what, file=sys.stderr, hidden=not shown, width=0) as bar:
        yield bar
    if shown:
        # click leaves the finished bar and goes to the next line
        sys.stderr.write("\x1b[A\r\x1b[K\r")
