"""What one object costs the API server and etcd: 0.1.0's CustomResourceDefinition beside those of today.

Run by `make bench NAME=crd` (OBJECTS=20 and ROUNDS=41 by default); it needs the API server only. Every definition is
installed under a group of its own in one API server, and all take their turn in each round, in a random order. The
requests for an object are those of a user and of Metacontroller's composite controller: create is POST, PUT
(finalizer), PUT of the status; update is PATCH, GET, PUT of the status; delete is DELETE, GET, PUT (finalizer). A watch
is open for each definition.
VARIANTS names others, which take a part out to show what it costs or have more columns: see `VARIANTS` below. Those of
PostgresRows are compared with today's PostgresWriter, too.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import requests
import yaml

from postgres_writer.core.row import KINDS, POSTGRES_ROW, POSTGRES_WRITER, Kind
from support.apiserver import ApiServer
from support.kube_tools import find_tools

TOP = Path(__file__).parents[2]
OBJECTS = int(os.environ.get("OBJECTS") or 20)
ROUNDS = int(os.environ.get("ROUNDS") or 41)
STEPS = ("create", "update", "delete")
BEFORE, NOW, ROW = "0.1.0", "now", "row"
FINALIZER = "metacontroller.io/compositecontroller-postgres-writer"

Crd = dict[str, Any]


def _schema(crd: Crd) -> dict[str, Any]:
    found: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def _without_rules(crd: Crd) -> None:
    del _schema(crd)["x-kubernetes-validations"]
    del _schema(crd)["properties"]["spec"]["properties"]["table"]["x-kubernetes-validations"]


def _without_transition_rules(crd: Crd) -> None:
    del _schema(crd)["x-kubernetes-validations"]


def _with_a_pattern(crd: Crd) -> None:
    table = _schema(crd)["properties"]["spec"]["properties"]["table"]
    rule = table["x-kubernetes-validations"].pop(0)["rule"]
    table["pattern"] = rule.removeprefix("self.matches('").removesuffix("')")


def _granular(crd: Crd) -> None:
    del _schema(crd)["properties"]["status"]["x-kubernetes-map-type"]


def _without_defaults(crd: Crd) -> None:
    status = _schema(crd)["properties"]["status"]
    for part in (status, status["properties"]["observedGeneration"], status["properties"]["conditions"]):
        del part["default"]


def _without_columns(crd: Crd) -> None:
    del crd["spec"]["versions"][0]["additionalPrinterColumns"]


def _without_removal_rule(crd: Crd) -> None:
    del _schema(crd)["x-kubernetes-validations"][1]


def _granular_columns(crd: Crd) -> None:
    del _schema(crd)["properties"]["spec"]["properties"]["columns"]["items"]["x-kubernetes-map-type"]


VARIANTS: dict[str, Callable[[Crd], None]] = {
    BEFORE: lambda _: None,
    NOW: lambda _: None,
    ROW: lambda _: None,
    "row of 30": lambda _: None,
    "row of 100": lambda _: None,
    "row without the removal rule": _without_removal_rule,
    "row with granular columns": _granular_columns,
    "without any rule": _without_rules,
    "without the transition rules": _without_transition_rules,
    "spec.table with a pattern": _with_a_pattern,
    "status field by field": _granular,
    "without status defaults": _without_defaults,
    "without columns": _without_columns,
}


def is_row(name: str) -> bool:
    """Say whether a variant is one of PostgresRow."""
    return name.startswith(ROW)


@dataclass
class Variant:
    """A definition under its own group, and what its objects cost: CPU ms per object, by step, in each round."""

    name: str
    api: Api
    apiserver_ms: dict[str, list[float]] = field(default_factory=lambda: {step: [] for step in STEPS})
    etcd_ms: dict[str, list[float]] = field(default_factory=lambda: {step: [] for step in STEPS})
    size: int = 0

    def total(self, step: str) -> list[float]:
        """Give the CPU ms of both processes, in the order of the rounds."""
        return [sum(pair) for pair in zip(self.apiserver_ms[step], self.etcd_ms[step], strict=True)]

    def over(self, other: Variant, step: str) -> float:
        """Give the median of the ratios to another variant's total in the same round."""
        return median(a / b for a, b in zip(self.total(step), other.total(step), strict=True))


class Api:
    """Requests for the objects of one group: PostgresWriters, or PostgresRows of a number of columns."""

    def __init__(self, server: ApiServer, group: str, kind: Kind, columns: int) -> None:
        self.version = f"{group}/{kind.version}"
        self.kind = kind
        self.columns = columns
        self.url = f"{server.url}/apis/{self.version}/namespaces/default/{kind.plural}"
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {server.token}"
        self._session.verify = str(server.certificate)
        self._session.trust_env = False  # a REQUESTS_CA_BUNDLE would go before

    def call(self, method: str, path: str = "", body: Any = None, kind: str = "application/json") -> Any:
        """Send one request; give the decoded answer, or raise HTTPError."""
        data = None if body is None else json.dumps(body)
        answer = self._session.request(
            method, self.url + path, data=data, headers={"Content-Type": kind, "User-Agent": "metacontroller"}
        )
        answer.raise_for_status()
        return answer.json()

    def spec(self, age: int) -> dict[str, Any]:
        """Give the spec of an object; the age is what an update changes."""
        values = {"name": "alex", "age": age, "country": "canada"}
        if self.kind.fixed is not None:
            return {"table": "students", **values}
        values |= {f"column_{number}": f"value {number}" for number in range(len(values), self.columns)}
        return {"table": "students", "columns": [{"name": name, "value": it} for name, it in values.items()]}

    def watch(self) -> None:
        """Hold a watch open, as Metacontroller does, and read what it sends until the API server ends."""
        # not closed before: that would wait for a thread which reads from it, so until the next event
        stream = self._session.get(self.url + "?watch=1", stream=True)
        threading.Thread(target=_drain, args=(stream,), daemon=True).start()


def _drain(stream: requests.Response) -> None:
    with suppress(requests.RequestException):
        for _ in stream.iter_lines():
            pass


def main() -> int:
    """Run all rounds and print the table and one line of JSON."""
    names = [name.strip() for name in (os.environ.get("VARIANTS") or f"{BEFORE},{NOW},{ROW}").split(",")]
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        print(f"VARIANTS: {', '.join(unknown)}: choose from {', '.join(VARIANTS)}.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, ApiServer(Path(folder), find_tools()) as server:
        variants = [Variant(name, install(server, name, number)) for number, name in enumerate(names)]
        for variant in variants:
            variant.api.watch()
        for number in range(ROUNDS + 1):
            # in another order each time: what one leaves behind to be collected, the next one pays for
            for variant in random.Random(number).sample(variants, len(variants)):
                run(server, variant, measured=number > 0)  # the first round fills caches
            print(f"\rround {number} of {ROUNDS}", end="", file=sys.stderr)
    print(file=sys.stderr)
    report(variants)
    return 0


def install(server: ApiServer, name: str, number: int) -> Api:
    """Install a variant under a group of its own."""
    kind = POSTGRES_ROW if is_row(name) else POSTGRES_WRITER
    path = TOP / ("tests/cluster/data/crd_0.1.0.yaml" if name == BEFORE else f"crds/{kind.plural}.yaml")
    crd = deepcopy(yaml.safe_load(path.read_text(encoding="utf-8")))
    VARIANTS[name](crd)
    group = f"v{number}.example.org"
    crd["metadata"]["name"] = f"{kind.plural}.{group}"
    crd["spec"]["group"] = group
    server.kubectl("apply", "--server-side", "--filename=-", input=yaml.safe_dump(crd))
    server.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"crd/{kind.plural}.{group}")
    words = name.split()
    return Api(server, group, kind, int(words[-1]) if words[-1].isdigit() else 3)


def run(server: ApiServer, variant: Variant, *, measured: bool) -> None:
    """Create, update and delete OBJECTS objects and note what each step cost."""
    for step in STEPS:
        before = [_cpu_seconds(server.pid(part)) for part in ("kube-apiserver", "etcd")]
        for number in range(OBJECTS):
            _STEPS[step](variant.api, f"object-{number}")
        after = [_cpu_seconds(server.pid(part)) for part in ("kube-apiserver", "etcd")]
        if measured:
            apiserver, etcd = ((end - start) * 1000 / OBJECTS for start, end in zip(before, after, strict=True))
            variant.apiserver_ms[step].append(apiserver)
            variant.etcd_ms[step].append(etcd)
        if step == "update":
            variant.size = len(json.dumps(variant.api.call("GET", "/object-0"), separators=(",", ":")))


def _cpu_seconds(pid: int) -> float:
    """Give the CPU time of a process, all threads together, from its own clock: /proc counts in steps of 10 ms.

    https://man7.org/linux/man-pages/man3/clock_getcpuclockid.3.html, whose id the kernel makes in this way.
    """
    return time.clock_gettime((~pid << 3) | 2)


def _create(api: Api, name: str) -> None:
    manifest = {"apiVersion": api.version, "kind": api.kind.name, "metadata": {"name": name}, "spec": api.spec(23)}
    created = api.call("POST", "?fieldManager=kubectl-create", manifest)
    created["metadata"]["finalizers"] = [FINALIZER]
    stored = api.call("PUT", f"/{name}", created)
    api.call("PUT", f"/{name}/status", {**stored, "status": _status(stored, 1)})


def _update(api: Api, name: str) -> None:
    # of a list a merge patch has to give the whole
    spec = api.spec(24)
    patch = {"spec": {field: spec[field] for field in ("age", "columns") if field in spec}}
    api.call("PATCH", f"/{name}?fieldManager=kubectl-patch", patch, "application/merge-patch+json")
    stored = api.call("GET", f"/{name}")
    api.call("PUT", f"/{name}/status", {**stored, "status": _status(stored, 2)})


def _delete(api: Api, name: str) -> None:
    api.call("DELETE", f"/{name}")
    stored = api.call("GET", f"/{name}")
    stored["metadata"]["finalizers"] = []
    api.call("PUT", f"/{name}", stored)


_STEPS: dict[str, Callable[[Api, str], None]] = {"create": _create, "update": _update, "delete": _delete}


def _status(stored: dict[str, Any], generation: int) -> dict[str, Any]:
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "RowSynced",
        "message": "The row in table public.students matches the spec.",
        "observedGeneration": generation,
        "lastTransitionTime": "2026-01-02T03:04:05Z",
    }
    columns = sorted(column["name"] for column in stored["spec"].get("columns", ()))
    return {
        "observedGeneration": generation,
        "id": f"{KINDS[stored['kind']].prefix}default/{stored['metadata']['name']}",
        "observedTable": "students",
        "tables": ["public.students"],
        **({"columns": columns} if columns else {}),
        "conditions": [ready],
    }


def report(variants: list[Variant]) -> None:
    """Print a table of medians; the ratios are those to the first variant in the same round.

    In the line of JSON, those of a PostgresRow to today's PostgresWriter are added if both are there.
    """
    first = variants[0]
    writer = next((variant for variant in variants if variant.name == NOW), first)
    print("| definition | bytes | " + " | ".join(f"{step}, CPU ms (etcd's) | to {first.name}" for step in STEPS) + " |")
    print("| --- | --: |" + " --: | --: |" * len(STEPS))
    figures = {}
    for variant in variants:
        cells = [f"{variant.size:,}"]
        for step in STEPS:
            over = variant.over(first, step)
            cells += [f"{median(variant.total(step)):.2f} ({median(variant.etcd_ms[step]):.2f})", f"{over:.2f}"]
            figures[f"{variant.name} {step}"] = round(over, 3)
            if is_row(variant.name):
                figures[f"{variant.name} {step} to {writer.name}"] = round(variant.over(writer, step), 3)
        print(f"| {variant.name} | {' | '.join(cells)} |")
    print(json.dumps({"objects": OBJECTS, "rounds": ROUNDS, **figures}))


if __name__ == "__main__":
    sys.exit(main())
