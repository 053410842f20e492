"""The audit's findings as people and programs read them."""

from __future__ import annotations

import itertools
import json
import logging
import sys
from collections.abc import Iterable, Sequence

from postgres_writer.audit.compare import Audit
from postgres_writer.audit.model import Finding
from postgres_writer.cli.commands import in_columns
from postgres_writer.core.audit_result import AuditResult, Fault
from postgres_writer.telemetry.logs import log_fields, printable

logger = logging.getLogger(__name__)

_MOST_LINES = 100  # A log is read by people and paid for by the line; the numbers are in the summary and the metrics
_HINTS = {
    Fault.NO_RESOURCE: (
        "Rows without a resource may have been kept on purpose (deletionPolicy Retain, or Unmanaged) or be your own: "
        "check before you prune."
    ),
    Fault.MISSING: "Rows that are missing or differ are fixed by a sync: --repair requests one.",
    Fault.DIFFERS: "Rows that are missing or differ are fixed by a sync: --repair requests one.",
    Fault.ELSEWHERE: "A row elsewhere is the only one of its resource, but not in spec.table; it is never pruned.",
    Fault.DUPLICATE: "Of the rows of one resource only the one in spec.table is kept; --prune ID removes the others.",
    Fault.UNMANAGED: "An unmanaged resource is managed again as soon as the controller's selector matches it.",
    Fault.UNREADABLE: "The rows of an unreadable table or database were not compared.",
}


def detail_of(finding: Finding) -> str:
    """Return what is wrong, with the names of the columns that differ."""
    return ", ".join(filter(None, (finding.detail, *finding.differences)))


def write_json(audit: Audit, result: AuditResult) -> None:
    """Write one JSON object: the findings, and the summary behind them."""
    # piece by piece: a million findings are never in memory together
    sys.stdout.write('{"findings": [')
    separator = "\n"
    for finding in audit.spool.findings():
        about = {"finding": finding.kind.value, "id": finding.id, "database": finding.database, "table": finding.table}
        sys.stdout.write(separator + json.dumps({**about, "detail": finding.detail, "fields": finding.differences}))
        separator = ",\n"
    summary = {name: getattr(result, name) for name in ("resources", "rows", "tables", "findings")}
    sys.stdout.write(f'],\n"summary": {json.dumps(summary)}}}\n')


def write_table(audit: Audit, result: AuditResult) -> None:
    """Write the findings in columns, and what they mean below."""
    if result.findings:
        write_rows(audit, audit.spool.findings(), audit.spool.widths())
        sys.stdout.write("\n")
    sys.stdout.write(f"{_summary_line(result)}\n")
    for hint in dict.fromkeys(_HINTS[Fault(kind)] for kind in result.findings):
        sys.stdout.write(f"{hint}\n")


def write_log(audit: Audit, result: AuditResult) -> None:
    """Log one line per finding, a hundred at most, and a summary."""
    for finding in itertools.islice(audit.spool.findings(), _MOST_LINES):
        detail = detail_of(finding)
        about = {"id": finding.id, "database": finding.database, "table": finding.table}
        told = log_fields(finding=finding.kind.value, **about, detail=detail)
        logger.warning("The audit found a problem.", extra=told)
    total = sum(result.findings.values())
    if total > _MOST_LINES:
        logger.warning("%d more findings are not logged; run the audit manually to see them.", total - _MOST_LINES)
    logger.log(logging.WARNING if total else logging.INFO, _summary_line(result))


WRITERS = {"table": write_table, "json": write_json, "log": write_log}  # what --output may say, and who writes it


def _summary_line(result: AuditResult) -> str:
    total = sum(result.findings.values())
    each = ", ".join(f"{number} {kind}" for kind, number in result.findings.items())
    return (
        f"{total} finding{'' if total == 1 else 's'}{': ' if each else ''}{each} "
        f"(resources: {result.resources}, rows: {result.rows}, tables: {result.tables})."
    )


def write_rows(audit: Audit, findings: Iterable[Finding], widths: Sequence[int]) -> None:
    """Write findings in columns; ``widths`` are those of the longest id, database and table."""
    head = ("FINDING", "ID", "DATABASE", "TABLE", "DETAIL")
    all_widths = map(max, map(len, head), (max(len(kind.value) for kind in Fault), *widths, 0))
    # which of the columns; a database only where there are several
    shown = (True, True, len(audit.configured) > 1, True, True)
    chosen = tuple(itertools.compress(all_widths, shown))
    sys.stdout.write(in_columns(itertools.compress(head, shown), chosen))
    for finding in findings:
        cells = finding.kind.value, *map(printable, (finding.id, finding.database, finding.table)), detail_of(finding)
        sys.stdout.write(in_columns(itertools.compress(cells, shown), chosen))
