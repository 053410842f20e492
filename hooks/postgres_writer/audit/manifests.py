"""PostgresWriters for rows that lost theirs: what `kubectl apply` needs to take such rows over as they are."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from postgres_writer.audit.model import COLUMNS, GROUP, KIND, Finding
from postgres_writer.core.audit_result import Kind
from postgres_writer.core.request import load_request

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
"""https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names"""


def manifests(
    findings: Iterable[Finding], spelling: Callable[[str], str]
) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Yield (id, manifest) for each row without a resource, or (id, why there is none).

    ``findings`` come in the order of their ids; ``spelling`` gives what spec.table says for a relation's label.
    """
    orphans = (finding for finding in findings if finding.kind is Kind.NO_RESOURCE)
    for about, group in itertools.groupby(orphans, key=lambda finding: finding.id):
        rows = list(group)
        if len(rows) > 1:
            where = ", ".join(dict.fromkeys(row.table for row in rows))
            yield about, f"{len(rows)} rows have this id (in {where}), and a resource has one"
        else:
            yield about, _manifest(rows[0], spelling(rows[0].table))


def _manifest(row: Finding, table: str) -> dict[str, Any] | str:
    namespace, _, name = row.id.partition("/")
    if not _NAME.fullmatch(name):
        return "Kubernetes does not allow this name"
    values = dict(zip(COLUMNS, row.values, strict=True))
    manifest = {
        "apiVersion": f"{GROUP}/v1",
        "kind": KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"table": table, **values, "age": _whole(values["age"])},
    }
    # the row of another program may hold what no spec can say: no age, an empty name
    return load_request({"parent": manifest}).problem.rstrip(".") or manifest


def _whole(age: Any) -> Any:
    """Return the age as an integer where it is one: a numeric column was kept as text."""
    return int(age) if isinstance(age, str) and age.isascii() and age.isdecimal() else age
