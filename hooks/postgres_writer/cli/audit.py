"""`postgres-writer audit`: compare the resources with the rows, and repair or prune on demand."""

from __future__ import annotations

from types import SimpleNamespace

import click

from postgres_writer.audit.command import run
from postgres_writer.cli.commands import Command

EXAMPLES = """\
examples:
  PSQL_HOST=db.example.com PSQL_PASSWORD_FILE=password postgres-writer audit
      Compare the cluster of kubectl's current context with the database.
  kubectl get pgw -A -o json | postgres-writer audit - -o json
      The same without calling kubectl; what changes meanwhile shows as findings.
  postgres-writer audit --context production --repair
      Ask Metacontroller for a sync of what is missing or differs.
  postgres-writer audit --prune default/old-student
  postgres-writer audit --prune --namespace team-a
      Show the rows that belong to no resource and delete them when you agree.

The database is that of the PSQL_* variables, as for `serve`; a role that may only read is enough without --prune.
A row belongs to no resource when its id is shaped <namespace>/<name> and no such PostgresWriter exists. It may be a
retained one (deletionPolicy Retain, or given up as Unmanaged) or your own: look before you prune.

exit codes: 0 nothing found (--prune: all shown rows are gone), 1 findings (--prune: rows were kept), 2 not done
"""

audit = Command(
    "audit",
    callback=lambda **given: run(SimpleNamespace(**given)),
    params=[
        click.Argument(["arguments"], nargs=-1, type=click.Path(allow_dash=True), metavar="[FILE | ID...]"),
        click.Option(["--context"], metavar="NAME", help="The context with which kubectl is called."),
        click.Option(["-n", "--namespace"], metavar="NS", help="Look at one namespace only."),
        click.Option(
            ["--table"], multiple=True, metavar="TABLE", help="Look also into a table that no resource names."
        ),
        click.Option(
            ["--all-tables"],
            is_flag=True,
            help="Look into every table with the columns id (unique), name, age, country.",
        ),
        click.Option(
            ["-o", "--output"],
            type=click.Choice(["table", "json"]),
            default="table",
            show_default=True,
            help="What to print.",
        ),
        click.Option(["--show-values"], is_flag=True, help="Print the values too, not only the fields' names."),
        click.Option(
            ["--confirm-after"],
            type=click.FloatRange(min=0),
            default=5,
            show_default=True,
            metavar="SECONDS",
            help="Look at findings again after this long and drop those that have passed.",
        ),
        click.Option(["--repair"], is_flag=True, help="Request a sync of what is missing or differs."),
        click.Option(
            ["--prune"],
            is_flag=True,
            help="Delete the rows with these IDs, or all of --namespace, that have no resource.",
        ),
        click.Option(["--yes"], is_flag=True, help="Delete without asking."),
    ],
    help="Compare the PostgresWriters with the rows: rows that are missing, differ, exist twice or belong to no "
    "resource, and resources that are Unmanaged. Changes nothing unless --repair or --prune is given.\n\n"
    "The resources are read with kubectl, or from FILE: what `kubectl get pgw -A -o json` printed, - for standard "
    "input.",
    epilog=EXAMPLES,
)
