"""What one object costs the API server and etcd: 0.1.0's CustomResourceDefinition beside the one of today.

Run by `make bench-crd` (OBJECTS=20 and ROUNDS=41 by default); it needs the API server only. Every definition is
installed under a group of its own in one API server, and all take their turn in each round. The requests for an object
are those of a user and of Metacontroller's composite controller: create is POST, PUT (finalizer), PUT of the status;
update is PATCH, GET, PUT of the status; delete is DELETE, GET, PUT (finalizer). A watch is open for each definition.
VARIANTS names others, which take a part out to show what it costs: see `VARIANTS` below.
"""

from __future__ import annotations

import json
import os
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

from support.apiserver import ApiServer
from support.kube_tools import find_tools

TOP = Path(__file__).parents[2]
OBJECTS = int(os.environ.get("OBJECTS") or 20)
ROUNDS = int(os.environ.get("ROUNDS") or 41)
STEPS = ("create", "update", "delete")
BEFORE, NOW = "0.1.0", "now"
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


def _granular(crd: Crd) -> None:
    del _schema(crd)["properties"]["status"]["x-kubernetes-map-type"]


def _without_defaults(crd: Crd) -> None:
    status = _schema(crd)["properties"]["status"]
    for part in (status, status["properties"]["observedGeneration"], status["properties"]["conditions"]):
        del part["default"]


def _without_columns(crd: Crd) -> None:
    del crd["spec"]["versions"][0]["additionalPrinterColumns"]


VARIANTS: dict[str, Callable[[Crd], None]] = {
    BEFORE: lambda _: None,
    NOW: lambda _: None,
    "without any rule": _without_rules,
    "without the transition rules": _without_transition_rules,
    "status field by field": _granular,
    "without status defaults": _without_defaults,
    "without columns": _without_columns,
}


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


class Api:
    """Requests for the objects of one group."""

    def __init__(self, server: ApiServer, group: str) -> None:
        self.group = group
        self.url = f"{server.url}/apis/{group}/v1/namespaces/default/postgreswriters"
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
    names = [name.strip() for name in (os.environ.get("VARIANTS") or f"{BEFORE},{NOW}").split(",")]
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        print(f"VARIANTS: {', '.join(unknown)}: choose from {', '.join(VARIANTS)}.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, ApiServer(Path(folder), find_tools()) as server:
        variants = [Variant(name, install(server, name, number)) for number, name in enumerate(names)]
        for variant in variants:
            variant.api.watch()
        for number in range(ROUNDS + 1):
            for variant in variants:
                run(server, variant, measured=number > 0)  # the first round fills caches
            print(f"\rround {number} of {ROUNDS}", end="", file=sys.stderr)
    print(file=sys.stderr)
    report(variants)
    return 0


def install(server: ApiServer, name: str, number: int) -> Api:
    """Install a variant under a group of its own."""
    path = TOP / ("tests/cluster/data/crd_0.1.0.yaml" if name == BEFORE else "crds/postgreswriters.yaml")
    crd = deepcopy(yaml.safe_load(path.read_text(encoding="utf-8")))
    VARIANTS[name](crd)
    group = f"v{number}.example.org"
    crd["metadata"]["name"] = f"postgreswriters.{group}"
    crd["spec"]["group"] = group
    server.kubectl("apply", "--server-side", "--filename=-", input=yaml.safe_dump(crd))
    server.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"crd/postgreswriters.{group}")
    return Api(server, group)


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
    spec = {"table": "students", "name": "alex", "age": 23, "country": "canada"}
    manifest = {"apiVersion": f"{api.group}/v1", "kind": "PostgresWriter", "metadata": {"name": name}, "spec": spec}
    created = api.call("POST", "?fieldManager=kubectl-create", manifest)
    created["metadata"]["finalizers"] = [FINALIZER]
    stored = api.call("PUT", f"/{name}", created)
    api.call("PUT", f"/{name}/status", {**stored, "status": _status(name, 1)})


def _update(api: Api, name: str) -> None:
    patch = {"spec": {"age": 24}}
    api.call("PATCH", f"/{name}?fieldManager=kubectl-patch", patch, "application/merge-patch+json")
    stored = api.call("GET", f"/{name}")
    api.call("PUT", f"/{name}/status", {**stored, "status": _status(name, 2)})


def _delete(api: Api, name: str) -> None:
    api.call("DELETE", f"/{name}")
    stored = api.call("GET", f"/{name}")
    stored["metadata"]["finalizers"] = []
    api.call("PUT", f"/{name}", stored)


_STEPS: dict[str, Callable[[Api, str], None]] = {"create": _create, "update": _update, "delete": _delete}


def _status(name: str, generation: int) -> dict[str, Any]:
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "RowSynced",
        "message": "The row in table public.students matches the spec.",
        "observedGeneration": generation,
        "lastTransitionTime": "2026-01-02T03:04:05Z",
    }
    return {
        "observedGeneration": generation,
        "id": f"default/{name}",
        "observedTable": "students",
        "tables": ["public.students"],
        "conditions": [ready],
    }


def report(variants: list[Variant]) -> None:
    """Print a table of medians; the ratios are those to the first variant in the same round."""
    first = variants[0]
    print("| definition | bytes | " + " | ".join(f"{step}, CPU ms (etcd's) | to {first.name}" for step in STEPS) + " |")
    print("| --- | --: |" + " --: | --: |" * len(STEPS))
    figures = {}
    for variant in variants:
        cells = [f"{variant.size:,}"]
        for step in STEPS:
            over = median(a / b for a, b in zip(variant.total(step), first.total(step), strict=True))
            cells += [f"{median(variant.total(step)):.2f} ({median(variant.etcd_ms[step]):.2f})", f"{over:.2f}"]
            figures[f"{variant.name} {step}"] = round(over, 3)
        print(f"| {variant.name} | {' | '.join(cells)} |")
    print(json.dumps({"objects": OBJECTS, "rounds": ROUNDS, **figures}))


if __name__ == "__main__":
    sys.exit(main())
