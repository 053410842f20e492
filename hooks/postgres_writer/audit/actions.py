"""What the audit can do about its findings: ask for syncs, and delete rows that belong to no resource."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone

from postgres_writer.audit.model import Finding, Relation, Tables, is_surplus, parse_resource
from postgres_writer.audit.report import write_rows
from postgres_writer.audit.resources import AuditError, Kubectl
from postgres_writer.audit.rows import Rows
from postgres_writer.audit.spool import Spool

_BATCH = 1000


def repair(spool: Spool, kubectl: Kubectl) -> int:
    """Ask Metacontroller for a sync of everything that a sync puts right; gives how many resources that are."""
    stamp = _now()
    wanted = (finding.id for finding in spool.findings() if finding.repairable)
    number = 0
    while batch := list(dict.fromkeys(itertools.islice(wanted, _BATCH))):
        kubectl.request_sync(batch, stamp)
        number += len(batch)
    return number


class Prune:
    """The deletion of rows that belong to no resource, after they were shown."""

    def __init__(self, rows: Rows, kubectl: Kubectl, relations: list[Relation]) -> None:
        self._rows = rows
        self._kubectl = kubectl
        self._by_label = {relation.label: relation for relation in relations}

    def run(self, chosen: list[Finding], *, confirmed: bool, show_values: bool) -> bool:
        """Show the rows, ask, delete them one by one; True when all of them are gone.

        Raises AuditError when nobody is there to be asked.
        """
        if not chosen:
            sys.stdout.write("There is no row to prune.\n")
            return True
        widths = max(len(finding.id) for finding in chosen), max(len(finding.table) for finding in chosen)
        write_rows(chosen, widths, sys.stdout, show_values=show_values)
        if not confirmed and not self._ask(len(chosen)):
            sys.stdout.write("Nothing was deleted.\n")
            return False
        kept = [finding for finding in chosen if not self._prune(finding)]
        sys.stdout.write(f"{len(chosen) - len(kept)} of {len(chosen)} rows deleted.\n")
        return not kept

    def _ask(self, number: int) -> bool:
        if not sys.stdin.isatty():
            raise AuditError(
                "Nobody can be asked, for the standard input is no terminal: give --yes to delete the rows."
            )
        rows = "this row" if number == 1 else f"these {number} rows"
        sys.stdout.write(f"Context of kubectl: {self._kubectl.describe()}\nDelete {rows}? [y/N] ")
        sys.stdout.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    def _prune(self, finding: Finding) -> bool:
        relation = self._by_label[finding.table]
        reason = self._rows.delete(relation, finding.id, finding.values, lambda: self._veto(finding.id, relation))
        if reason:
            sys.stdout.write(f"Kept {finding.id} in {finding.table}: {reason}.\n")
            return False
        # a resource made while the row was being deleted may have been told that its row is there already
        if self._veto(finding.id, relation):
            self._kubectl.request_sync([finding.id], _now())
            sys.stdout.write(f"{finding.id} has a resource again; a sync was asked for, which writes the row anew.\n")
        return True

    def _veto(self, about: str, relation: Relation) -> str:
        """Read the resource as it is now, and say why the row is not to be deleted."""
        manifest = self._kubectl.get(about)
        if manifest is None:
            return ""
        resource = parse_resource(manifest)
        known = self._rows.lookup(table for table in (resource.table, *resource.tables) if table)
        return "" if is_surplus(resource, relation, Tables(known, {})) else "it has a resource again"


def chosen_findings(spool: Spool, ids: Iterable[str], namespace: str | None) -> list[Finding]:
    """Return the findings to prune: those of the ids given, or all of the namespace.

    Raises AuditError when an id has no row that belongs to no resource.
    """
    prunable = [finding for finding in _prunable(spool) if namespace is None or finding.id.startswith(f"{namespace}/")]
    wanted = list(ids)
    if not wanted:
        return prunable
    unknown = sorted(set(wanted) - {finding.id for finding in prunable})
    if unknown:
        raise AuditError(f"No row without a resource has the id {', '.join(unknown)}: see what the audit lists.")
    return [finding for finding in prunable if finding.id in set(wanted)]


def _prunable(spool: Spool) -> Iterator[Finding]:
    return (finding for finding in spool.findings() if finding.prunable)


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
