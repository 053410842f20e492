"""The tables of docs/configuration.md and docs/reference.md, from what code and manifests declare (`make docs`)."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import yaml

from postgres_writer import errors
from postgres_writer.config.settings import GROUPS
from postgres_writer.config.variables import DEFAULT_DATABASE
from postgres_writer.core.audit_result import AuditResult
from postgres_writer.telemetry import metrics

TOP = Path(__file__).parents[2]
HEAD = """\
# Reference

Every field, default, rule, column of `kubectl get`, condition, reason, annotation and metric, as manifests and code say
(`make docs`). [rows.md](rows.md) explains the values of a PostgresRow, and the [runbook](runbook.md) says what to do
about each reason.

"""
RETRIES = {
    errors.Retry.AT_ONCE: "after 1 s",
    errors.Retry.TRANSIENT: "after 2 s or more, at most 50 resources a second",
    errors.Retry.USER_ACTION: "after 30 to 90 s",
    errors.Retry.PERIOD: "at the next resync, or when the resource changes",
}
CONDITIONS = [
    ("Ready", "whether the row matches the spec; always there"),
    ("Stalled", "`True` while only an edit of the spec or of the table policy can help (InvalidSpec, TableNotAllowed)"),
    ("Reconciling", "`True` while a paused resource has an edit that was not applied"),
    ("Paused", "`True` while the annotation `demo.yash.com/paused` suspends everything except deletion"),
]
ANNOTATIONS = [
    ("demo.yash.com/paused", "suspends everything except deletion"),
    (
        "demo.yash.com/protected",
        "with the component `deletion-protection`: the API server refuses to delete the resource",
    ),
    ("demo.yash.com/resync-requested", "a new value, such as the time, requests a sync"),
]


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    head = list(head)
    yield from (f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}")
    for row in rows:
        yield f"| {' | '.join(' '.join(str(cell).replace('|', chr(92) + '|').split()) for cell in row)} |"
    yield ""


def settings() -> str:
    """Return the tables of docs/configuration.md."""
    lines: list[str] = []
    for title, group in GROUPS.items():
        lines += [f"## {title.capitalize()}", "", "| variable | default | meaning |", "| --- | --- | --- |"]
        lines += [f"| `{each.name}` | {each.default_text} | {each.meaning} |" for each in group]
        lines.append("")
    return "\n".join(lines)


def fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield (path, type, default, description) of the fields of a schema, those of objects and lists below them."""
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        of_type = field.get("type", "any JSON")
        items = field["items"] if of_type == "array" else {}
        default = f"`{json.dumps(field['default'])}`" if "default" in field else "required" if name in required else ""
        described = f"list of {items['type']}s" if items else of_type
        yield f"`{path}.{name}`", described, default, field.get("description", "")
        yield from fields(items or field, f"{path}.{name}{'[]' if items else ''}")


def rules(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, message) of every rule of a schema."""
    for rule in schema.get("x-kubernetes-validations", []):
        at = f"`{path + rule.get('fieldPath', '') or 'spec'}`".replace("`.", "`")
        yield at, rule.get("message") or spoken(rule["messageExpression"])
    for name, field in schema.get("properties", {}).items():
        yield from rules(field, f"{path}.{name}")
    if "items" in schema:
        yield from rules(schema["items"], f"{path}[]")


def spoken(expression: str) -> str:
    """Return what the expression of a message says, with all of its alternatives."""
    parts = re.findall(r"(\S?)\s*'([^']*)'", re.sub(r"matches\('[^']*'\)", "", expression))
    alternatives = " or ".join(text for before, text in parts if before in {"?", ":"})
    return "".join(text for before, text in parts if before not in {"?", ":"}).replace(" ; ", f" {alternatives}; ", 1)


def kind(manifest: dict[str, Any]) -> Iterator[str]:
    """Yield the section of a kind."""
    [version] = manifest["spec"]["versions"]
    schema, names = version["schema"]["openAPIV3Schema"], manifest["spec"]["names"]
    api = f"{manifest['spec']['group']}/{version['name']}"
    yield from (
        f"## {names['kind']}",
        "",
        f"`{api}`, short name `{names['shortNames'][0]}`. {schema['description']}",
        "",
    )
    both = {"properties": {name: schema["properties"][name] for name in ("spec", "status")}}
    found = [(path.replace("`.", "`"), *more) for path, *more in fields(both, "") if path.count(".") > 1]
    yield from table(("field", "type", "default", "meaning"), found)
    yield from table(("rule on", "what the API server says"), rules(schema))
    yield from table(("column", "shown", "meaning"), map(column, version["additionalPrinterColumns"]))


def column(declared: dict[str, Any]) -> tuple[str, str, str]:
    """Return (name, when it is shown, meaning) of a column of `kubectl get`."""
    shown = "with `-o wide`" if declared.get("priority") else "always"
    return declared["name"].upper(), shown, declared.get("description", "How long the resource has existed.")


def reasons() -> Iterator[tuple[str, str, str]]:
    """Yield (reason, meaning, when it is tried again) of the condition Ready."""
    body = ast.parse(inspect.getsource(errors.Reason)).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for before, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(before, ast.Assign) and isinstance(after, ast.Expr):
            texts[ast.literal_eval(before.value)] = ast.literal_eval(after.value)
    for reason in errors.Reason:
        error = getattr(errors, reason.value, None)
        meaning = texts.get(reason.value) or inspect.getdoc(error) or ""
        retry = RETRIES[error.retry] if error else "at the next resync"
        yield f"[{reason.value}](runbook.md#{reason.value.lower()})", meaning.partition("\n\n")[0], retry


def counted() -> Iterator[tuple[str, str, str]]:
    """Yield (name, labels, meaning) of every metric."""
    metrics.declare()
    metrics.OfDatabase(DEFAULT_DATABASE)
    for family in (*prometheus_client.REGISTRY.collect(), *metrics.of_last_audit(AuditResult())):
        if family.name.startswith("postgres_writer"):
            suffix = "_total" if family.type == "counter" else ""
            labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
            yield f"`{family.name}{suffix}`", ", ".join(f"`{label}`" for label in labels), family.documentation


def reference() -> str:
    """Return docs/reference.md."""
    lines: list[str] = []
    for path in ("postgresrows", "postgreswriters"):
        lines += kind(yaml.safe_load((TOP / "crds" / f"{path}.yaml").read_text(encoding="utf-8")))
    lines += ["## Conditions", "", *table(("condition", "meaning"), CONDITIONS)]
    lines += ["## Reasons of Ready", "", *table(("reason", "meaning", "tried again"), reasons())]
    named = ((f"`{name}`", meaning) for name, meaning in ANNOTATIONS)
    lines += ["## Annotations", "", *table(("annotation", "meaning"), named)]
    lines += ["## Metrics", "", *table(("metric", "labels", "meaning"), counted())]
    titles = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
    contents = "".join(f"- [{title}](#{title.lower().replace(' ', '-')})\n" for title in titles)
    return re.sub(r"\n+\Z", "\n", f"{HEAD}{contents}\n" + "\n".join(lines))


if __name__ == "__main__":
    sys.stdout.write({"configuration": settings, "reference": reference}[sys.argv[1]]())
