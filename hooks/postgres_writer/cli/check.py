"""`postgres-writer check`: what the server would find, one line each, before a resource has to say it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Any

import click

from postgres_writer.audit.cluster import source_of
from postgres_writer.audit.resources import Source
from postgres_writer.cli.client import read_manifests, requests_of
from postgres_writer.cli.commands import Command, in_columns
from postgres_writer.config.settings import Config, ignore_libpq_variables
from postgres_writer.config.variables import DEFAULT_DATABASE
from postgres_writer.core.plan import Record, Write, make_plan
from postgres_writer.core.policy import ALLOW_ALL
from postgres_writer.core.request import load_request
from postgres_writer.core.response import verdict
from postgres_writer.core.row import GROUP, KINDS, Spec, relation_name
from postgres_writer.database.databases import Databases
from postgres_writer.deadlines import Call
from postgres_writer.errors import AuditError, ConfigError, PostgresWriterError
from postgres_writer.server.files import check_files, load_policy
from postgres_writer.telemetry import logs
from postgres_writer.telemetry.logs import printable

EXAMPLES = """\
examples:
  PSQL_HOST=db.example.com PSQL_PASSWORD_FILE=password postgres-writer check
  postgres-writer check k8s/samples/sample-student.yaml
      Also whether its table can be written: columns, key, grants, policies.
  kubectl -n postgres-writer exec deploy/postgres-writer -- postgres-writer check --table students
      In the pod, with its settings, files and network.

exit codes: 0 nothing failed, 1 something failed, 2 wrong arguments or configuration, 130 interrupted
"""
Finding = tuple[str, str, str]
"""ok, fail or note; what it is about; what was found, and what to do about it."""


@click.command(
    cls=Command,
    help="Check the settings and their files, every database, the tables of --table and of the manifests in FILE (- is "
    "standard input), and with kubectl the definitions and controllers in the cluster. Changes nothing.",
    epilog=EXAMPLES,
)
@click.argument("files", nargs=-1, type=click.Path(allow_dash=True), metavar="[FILE...]")
@click.option("--table", "tables", multiple=True, metavar="TABLE", help="Also check a table, with the column id alone.")
@click.option("--database", default=DEFAULT_DATABASE, show_default=True, help="The database of --table.")
@click.option("--context", metavar="NAME", help="Context for kubectl.")
@click.option("--no-cluster", is_flag=True, help="Do not look at the cluster.")
def check(files: tuple[str, ...], tables: tuple[str, ...], database: str, context: str | None, no_cluster: bool) -> int:
    """Check; returns the exit code. Raises ConfigError for unusable arguments and settings."""
    ignore_libpq_variables(os.environ)
    # what goes wrong is printed
    logs.configure("CRITICAL", "text")
    manifests = [request for file in files for request in requests_of(read_manifests(file), force=True)]
    config = Config.from_env(os.environ)
    databases = Databases(config, os.environ)
    found = chain(
        _settings(config),
        ((("ok" if sound else "fail"), f"database {name}", said) for name, sound, said in databases.states()),
        _manifests(databases, config, manifests),
        chain.from_iterable(_table(databases, database, table) for table in tables),
        () if no_cluster else _cluster(context),
    )
    failed = False
    for result, about, text in found:
        said = text.removesuffix(" Retrying automatically.").removesuffix("; retrying automatically.")
        sys.stdout.write(in_columns((result, about, printable(said)), (4, 28, 0)))
        failed = failed or result == "fail"
    return int(failed)


def _settings(config: Config) -> Iterator[Finding]:
    try:
        check_files(config)
    except ConfigError as exc:
        yield "fail", "settings", str(exc)
        return
    files = {"tokens": config.tokens_file, "certificate": config.tls_cert_file, "policy": config.table_policy_file}
    there = ", ".join(f"{what} {path}" for what, path in files.items() if path)
    yield "ok", "settings", there or "no file of tokens, certificate or policy is configured"
    if config.tokens_file is None:
        yield "note", "settings", "Anyone who reaches the port may call the hooks: see HOOK_TOKENS_FILE."


def _manifests(databases: Databases, config: Config, bodies: list[dict[str, Any]]) -> Iterator[Finding]:
    policy = load_policy(config.table_policy_file) if bodies and config.table_policy_file else ALLOW_ALL
    for body in bodies:
        request = load_request(body, schema_of=databases.schema)
        found, about = databases.find(request.database), f"{request.namespace}/{request.name}"
        permits = partial(policy.permits, database=request.database, schema=found.config.schema)
        plan = make_plan(request, permits, found.missing)
        if isinstance(plan, Write | Record):
            yield from _relation(databases, request.database, plan.spec, about)
        else:
            yield "fail", about, verdict(request, found.store.apply(plan, Call(time.monotonic())))[2]


def _table(databases: Databases, database: str, table: str) -> Iterator[Finding]:
    relation = relation_name(table, databases.schema(database))
    if relation is None:
        raise ConfigError(f"--table {table!r} must be a table or schema.table.")
    yield from _relation(databases, database, Spec(relation, ()), f"table {relation}")


def _relation(databases: Databases, database: str, spec: Spec, about: str) -> Iterator[Finding]:
    found = databases.find(database)
    try:
        if found.missing:
            raise found.missing
        trouble, triggers = found.store.check(spec, Call(time.monotonic()))
    except PostgresWriterError as exc:
        yield "fail", about, str(exc)
        return
    yield ("fail", about, str(trouble)) if trouble else ("ok", about, f"The role can write {spec.table}.")
    if triggers:
        names = ", ".join(triggers)
        yield "note", about, f"Triggers of {spec.table} run with the rights of the server's role: {names}."


def _cluster(context: str | None) -> Iterator[Finding]:
    source = source_of(os.environ, context)
    try:
        yield "ok", "cluster", source.describe()
        definitions = set(map(_name, _items(source, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")))
        for name in (f"{kind.plural}.{GROUP}" for kind in KINDS.values()):
            there = name in definitions
            yield "ok" if there else "fail", name, "defined" if there else "kubectl apply --server-side -k crds"
        yield from _controllers(source)
        yield from _flags(source)
    except AuditError as exc:
        yield "note", "cluster", f"Not checked: {exc}"
    finally:
        source.close()


def _controllers(source: Source) -> Iterator[Finding]:
    parents = {
        f"{shape}controller-{_name(each)}": {
            (str(rule["apiVersion"]).partition("/")[0], rule["resource"])
            for rule in each["spec"].get("resources", [each["spec"].get("parentResource")])
        }
        for shape in ("composite", "decorator")
        for each in _items(source, f"/apis/metacontroller.k8s.io/v1alpha1/{shape}controllers")
    }
    for kind in KINDS.values():
        by = [name for name, resources in parents.items() if (GROUP, kind.plural) in resources]
        said = " and ".join(by) or "none: kubectl apply -k metacontroller"
        two = "; both write the same rows unless their selectors differ" if len(by) > 1 else ""
        yield "ok" if len(by) == 1 else "note" if by else "fail", f"controller of {kind.name}", f"{said}{two}"
        known, total, without = {f"metacontroller.io/{name}" for name in by}, 0, []
        for page in source.pages(kinds=[kind]):
            total += len(page)
            without += [_name(each) for each in page if known.isdisjoint(each["metadata"].get("finalizers") or [])]
        if by and without:
            said = f"{len(without)} of {total} resources have none, among them {without[0]}"
            yield "note", f"finalizer of {kind.name}", said


def _flags(source: Source) -> Iterator[Finding]:
    slow = "Its defaults limit it to a few resources per second: k8s/components/metacontroller-flags/args.yaml"
    for plural in ("statefulsets", "deployments"):
        for workload in _items(source, f"/apis/apps/v1/{plural}"):
            for container in workload["spec"]["template"]["spec"]["containers"]:
                if "metacontroller" in str(container.get("image")):
                    given = " ".join(container.get("args") or [])
                    fast = "--workers" in given and "--client-go-qps" in given
                    yield "ok" if fast else "note", "metacontroller", given if fast else slow


def _items(source: Source, path: str) -> list[dict[str, Any]]:
    return source.read(path, {}).get("items") or []


def _name(manifest: dict[str, Any]) -> str:
    return str(manifest["metadata"]["name"])
