"""`postgres-writer audit`: compare the resources with the rows, print what was found, repair or prune on demand."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from postgres_writer.audit.cluster import SERVICE_ACCOUNT, Cluster, source_of
from postgres_writer.audit.compare import Audit
from postgres_writer.audit.model import Finding
from postgres_writer.audit.resources import ID, NAMESPACE
from postgres_writer.audit.spool import Spool
from postgres_writer.cli import audit_report
from postgres_writer.cli.commands import Command
from postgres_writer.config import variables
from postgres_writer.config.settings import SETTINGS, DatabaseConfig, database_names, ignore_libpq_variables
from postgres_writer.config.variables import DEFAULT_DATABASE
from postgres_writer.core.audit_result import AuditResult, Fault
from postgres_writer.errors import AuditError, ConfigError
from postgres_writer.telemetry import logs

EXAMPLES = """\
examples:
  PSQL_HOST=db.example.com PSQL_PASSWORD_FILE=password postgres-writer audit
      Compare the cluster of kubectl's current context with every configured database.
  kubectl get pgw,pgr -A -o json | postgres-writer audit - -o json
      The same, with the resources from standard input; changes made meanwhile are reported as findings.
  postgres-writer audit --context production --repair
      Request a sync of what is missing or differs.
  postgres-writer audit --prune default/old-student
  postgres-writer audit --prune --namespace team-a
      Show the rows without a resource and, after confirmation, delete them.

The databases are that of the PSQL_* variables, which is called default, and those of PSQL_DATABASES_DIR, as for
`serve`; without --prune roles that may only read are enough.
A row has no resource if its id has the form <namespace>/<name> and no such PostgresWriter exists, or the form
row/<namespace>/<name> and no such PostgresRow exists. It may have been kept on purpose (deletionPolicy Retain, or
Unmanaged) or be your own: check before you prune.

exit codes: 0 no findings (--prune: all shown rows are deleted), 1 findings, or output that
cannot be written, 2 not done, 130 interrupted
"""


def _seconds(option: str, lowest: float, default: str, meaning: str) -> Callable[[Callable[..., int]], Any]:
    """Declare an option that is read as a setting of seconds is; a day is the most."""
    parse = variables.seconds(lowest, 24 * 3600)
    seconds = partial(click.option, callback=lambda _context, _option, value: parse(option, value), metavar="SECONDS")
    return seconds(option, default=default, help=meaning)


@click.command(
    cls=Command,
    help="Compare the resources of both kinds with the rows: rows that are missing, different, duplicated or without a "
    "resource, and resources that are Unmanaged. Changes nothing unless --repair or --prune is given.\n\n"
    "The resources are read with kubectl, in a pod from the API server with the token of its service account, or from "
    "FILE, the output of `kubectl get pgw,pgr -A -o json`; - is standard input.",
    epilog=EXAMPLES,
)
@click.argument("arguments", nargs=-1, type=click.Path(allow_dash=True), metavar="[FILE | ID...]")
@click.option("--context", metavar="NAME", help="Context for kubectl.")
@click.option("-n", "--namespace", metavar="NS", help="Audit only one namespace.")
@click.option("--database", "only", multiple=True, metavar="NAME", help="Audit only this database; can be repeated.")
@click.option("--table", "tables", multiple=True, metavar="TABLE", help="Also read a table that no resource names.")
@click.option("--all-tables", is_flag=True, help="Read every table with a unique text column id.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(list(audit_report.WRITERS)),
    default="table",
    help="What to print. log: a line per finding in the format of LOG_FORMAT, at most 100, and a summary.",
)
@_seconds("--confirm-after", 0, "5", "Check findings again after this time and drop those that have disappeared.")
@_seconds("--timeout", 0.001, "300", "Maximum time to read a batch of one table; then it is reported as unreadable.")
@click.option(
    "--service-account",
    type=click.Path(path_type=Path),
    default=SERVICE_ACCOUNT,
    metavar="FOLDER",
    help="In a pod: the folder with token, ca.crt and namespace, used instead of kubectl.",
)
@click.option(
    "--result-config-map",
    metavar="NAME",
    help="In a pod: store the number of findings in this ConfigMap, from which the hook server's /metrics shows them.",
)
@click.option("--repair", is_flag=True, help="Request a sync of what is missing or differs.")
@click.option(
    "--prune", is_flag=True, help="Delete the rows with these IDs, or all of --namespace, without a resource."
)
@click.option("--yes", is_flag=True, help="Delete without confirmation.")
def audit(**given: Any) -> int:
    """Audit; returns the exit code.

    Raises ConfigError for unusable arguments and AuditError when resources or rows cannot be read.
    """
    arguments = SimpleNamespace(**given)
    # what follows --prune are ids, otherwise it is the file
    arguments.ids, files = (arguments.arguments, ()) if arguments.prune else ((), arguments.arguments)
    _check(arguments, files)
    if ignored := ignore_libpq_variables(os.environ):
        click.echo(f"postgres-writer: {ignored}", err=True)
    began = time.monotonic()
    if arguments.output == "log":
        # colours and columns are for people at a terminal; a pod's log has one record per line
        level, log_format = (one.read(os.environ) for one in SETTINGS if one.name.startswith("LOG_"))
        logs.configure(level, log_format, sys.stdout)
    with contextlib.ExitStack() as stack:
        # the collector would walk the many new objects of each page over and over, and find none to free
        stack.callback(gc.set_threshold, *gc.get_threshold())
        gc.set_threshold(1_000_000)
        source = stack.enter_context(closing(source_of(os.environ, arguments.context, arguments.service_account)))
        if arguments.result_config_map and (files or not isinstance(source, Cluster)):
            raise ConfigError("--result-config-map is for an audit in a pod, with the token of its service account.")
        spool = stack.enter_context(closing(Spool()))
        databases, unread = _databases()
        if unknown := sorted(set(given["only"]) - {*databases, *unread}):
            raise ConfigError(f"--database {unknown[0]}: PSQL_DATABASES_DIR has no folder of that name.")
        listed = stack.enter_context(click.open_file(files[0], "rb")) if files else None
        options = ("only", "namespace", "tables", "all_tables", "confirm_after", "timeout")
        chosen = {name: given[name] for name in options}
        comparison = Audit(source, databases, spool, unread, **chosen)
        comparison.run(listed)
        result = comparison.result()
        _require_read(result, arguments)
        if arguments.prune:
            return _prune(comparison, arguments)
        audit_report.WRITERS[arguments.output](comparison, result)
        if arguments.repair:
            number = source.request_sync(spool.repairable())
            sys.stderr.write(f"Requested a sync of {number} resource{'' if number == 1 else 's'}; check again soon.\n")
        if isinstance(source, Cluster) and arguments.result_config_map:
            timed = replace(result, finished=time.time(), seconds=time.monotonic() - began)
            source.store(arguments.result_config_map, timed)
        return int(bool(result.findings))


def _databases() -> tuple[dict[str, DatabaseConfig], dict[str, str]]:
    """Return how to reach each database that is configured, and why some cannot be."""
    [folder] = (one.read(os.environ) for one in SETTINGS if one.name == "PSQL_DATABASES_DIR")
    found, unread = {DEFAULT_DATABASE: DatabaseConfig.from_env(os.environ)}, {}
    for name in database_names(folder):
        try:
            found[name] = DatabaseConfig.from_folder(folder / name, os.environ)
        except ConfigError as error:
            unread[name] = str(error)
    return found, unread


def _check(given: SimpleNamespace, files: Sequence[str]) -> None:
    unshaped = [row for row in given.ids if not ID.fullmatch(row)]
    unnamed = given.namespace is not None and not NAMESPACE.fullmatch(given.namespace)
    for is_wrong, sentence in (
        (given.repair and given.prune, "--repair and --prune cannot be used together: give one of them."),
        (len(files) > 1, f"There can be only one FILE, and ids need --prune: {' '.join(files)}."),
        (files and (given.repair or given.context), "--context, --repair and --prune need the cluster: omit FILE."),
        (given.prune and not given.ids and not given.namespace, "--prune needs the ids of rows, or --namespace."),
        (unnamed, f"--namespace {given.namespace!r} is not a valid name of a namespace."),
        (unshaped, f"--prune takes ids shaped [row/]<namespace>/<name>, not {', '.join(map(repr, unshaped))}."),
        (given.yes and not given.prune, "--yes is only for --prune."),
    ):
        if is_wrong:
            raise ConfigError(sentence)


def _require_read(result: AuditResult, arguments: SimpleNamespace) -> None:
    """Raise AuditError when no table of the namespace is known: nothing read is not nothing found."""
    if arguments.namespace and not (arguments.all_tables or result.tables or (result.resources and result.findings)):
        about = f"No resource of namespace {arguments.namespace} names a table, so no row was read"
        raise AuditError(f"{about}: name the tables with --table, or use --all-tables.")


def _prune(audit: Audit, arguments: SimpleNamespace) -> int:
    """Show the rows, ask, delete them one by one; 0 when all of them are gone.

    Raises AuditError when no one can be asked, or when the cluster is likely the wrong one.
    """
    chosen = audit.prunable(arguments.ids)
    if not chosen:
        sys.stdout.write("There is no row to prune.\n")
        return 0
    # with --yes no one is shown the cluster before the rows are deleted
    unseen = arguments.yes and not arguments.context
    unmatched = sorted({finding.database for finding in chosen if not audit.matched[finding.database]})
    if unmatched and (unseen or not arguments.ids):
        # the likeliest causes are the wrong context and the wrong database
        database = f"database {unmatched[0]}" if len(audit.configured) > 1 else "this database"
        where, remedy = f"of namespace {arguments.namespace}", "name the rows by their ids"
        if arguments.ids:
            where, remedy = "here", "omit --yes and confirm, or name the cluster with --context"
        raise AuditError(
            f"No resource {where} has its row in {database} (cluster: {audit.source.describe()}). If cluster "
            f"and database are the right ones, {remedy}."
        )
    widths = [max(len(getattr(one, name)) for one in chosen) for name in ("id", "database", "table")]
    audit_report.write_rows(audit, chosen, widths)
    if not arguments.yes and not _ask(len(chosen), audit.source.describe()):
        sys.stdout.write("Nothing was deleted.\n")
        return 1
    kept = [finding for finding in chosen if not _delete(audit, finding)]
    sys.stdout.write(f"{len(chosen) - len(kept)} of {len(chosen)} rows deleted.\n")
    return int(bool(kept))


def _ask(number: int, cluster: str) -> bool:
    if not sys.stdin.isatty():
        raise AuditError("Standard input is not a terminal, so deletion cannot be confirmed; use --yes.")
    rows = "this row" if number == 1 else f"these {number} rows"
    return click.confirm(f"Cluster: {cluster}\nDelete {rows}?")


def _delete(audit: Audit, finding: Finding) -> bool:
    reason = audit.delete(finding)
    if reason:
        database = f" of database {finding.database}" if len(audit.configured) > 1 else ""
        sys.stdout.write(f"Kept {finding.id} in {finding.table}{database}: {reason}.\n")
        return False
    # a resource created while the row was being deleted may have found its row and be Ready without it now
    if finding.kind is Fault.NO_RESOURCE and audit.resource_now(finding) is not None:
        audit.source.request_sync([finding.id])
        sys.stdout.write(f"{finding.id} has a resource again; requested a sync to restore its row.\n")
    return True
