"""Creates, updates and deletes per second through a real API server, and what one object costs each process.

Run by `make bench NAME=cluster` (OBJECTS=400 and ROUNDS=3 by default); METACONTROLLER names its binary, GO_OPERATOR
that of an operator to run along. Everyone runs once in every round, so that what else the machine does hits all alike;
the table shows medians, and the ratios are to the naive hook of the same kind of controller in the same round.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.contenders import LATE, NAIVE, OURS, Contender, contenders
from bench.load import cpu_seconds
from bench.progress import Progress
from support.api_client import resource
from support.kube_tools import find_tools
from support.metacontroller import SKIP_REASON, find_binary
from support.stack import Stack

OBJECTS = int(os.environ.get("OBJECTS") or 400)
ROUNDS = int(os.environ.get("ROUNDS") or 3)
CLIENTS = 16
WARM = 100
LONGEST = 300.0
STEPS = ("creates", "updates", "deletes")
PARTS = ("API server", "etcd", "PostgreSQL", "hook", "Metacontroller")
_WATCHED = ("LIST", "WATCH", "DELETECOLLECTION")
"""Verbs of the benchmark's own and of caches that fill: not what an object costs."""

TARGETS = (*((f"{step}_ratio", 1.0, True) for step in STEPS), ("cpu_ratio", 1.0, False))
"""(figure, bound, whether at least) of PostgresWriter against the naive hook of the same controller."""


@dataclass(frozen=True)
class Leg:
    """One step of one contender in one round."""

    rate: float
    cpu_ms: dict[str, float]
    """CPU time per object in ms, by part."""
    requests: float
    """Requests per object that the API server answered, the client's own included."""


@dataclass
class Entry:
    """A contender and its legs, by step, in the order of the rounds."""

    contender: Contender
    legs: dict[str, list[Leg]] = field(default_factory=lambda: {step: [] for step in STEPS})

    def middle(self, step: str, figure: Callable[[Leg], float]) -> float:
        """Give the median of a figure over the rounds."""
        return median(figure(leg) for leg in self.legs[step])

    def over(self, other: Entry, step: str, figure: Callable[[Leg], float]) -> float:
        """Give the median of the ratios to another's figure in the same round."""
        return median(figure(a) / figure(b) for a, b in zip(self.legs[step], other.legs[step], strict=True))


def main() -> int:
    """Run all rounds, print the table, the verdicts and one line of JSON; 1 when a target is missed."""
    binary = find_binary()
    if binary is None:
        print(SKIP_REASON, file=sys.stderr)
        return 2
    entries = [Entry(contender) for contender in contenders()]
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), find_tools(), binary)
        try:
            stack.start()
            stack.recorder.stop()  # it decodes every version that is stored; this measures
            for entry in entries:  # caches fill, connections open, etcd's file grows: at nobody's cost
                _run(stack, entry, "warm", WARM)
            for number in range(ROUNDS):
                # who comes after whom matters a little, so every other round goes the other way
                for entry in entries if number % 2 else reversed(entries):
                    for step, leg in _run(stack, entry, f"round-{number}", OBJECTS).items():
                        entry.legs[step].append(leg)
        finally:
            stack.stop()
    for line in table(entries):
        print(line)
    figures = ratios(entries, OURS)
    missed = [line for line in verdicts(figures) if line.startswith("MISSED")]
    print("\n".join(verdicts(figures)))
    run = {"objects": OBJECTS, "rounds": ROUNDS, "clients": CLIENTS}
    print(json.dumps({**run, **figures, LATE: ratios(entries, LATE)}))
    return int(bool(missed))


def _run(stack: Stack, entry: Entry, name: str, objects: int) -> dict[str, Leg]:
    """Let one contender go through all steps with so many objects."""
    contender = entry.contender
    namespace = f"{name}-{contender.controller}-{contender.run.__name__}"
    with contender.run(stack, contender.controller) as pid:
        stack.client.create_namespace(namespace)
        stack.wait_for_controller()
        progress = Progress(stack.client)
        progress.start()
        try:
            legs = _legs(stack, namespace, progress, pid, objects)
        finally:
            progress.stop()
    rows = stack.database.rows()
    if rows:
        raise AssertionError(f"{len(rows)} rows are left")
    rates = ", ".join(f"{step} {leg.rate:.0f}/s" for step, leg in legs.items())
    print(f"{name}: {contender.name}, {contender.controller}: {rates}", file=sys.stderr, flush=True)
    return legs


def _legs(stack: Stack, namespace: str, progress: Progress, pid: int, objects: int) -> dict[str, Leg]:
    """Create, update and delete all objects, each time until the last one has gone through."""
    client = stack.client
    names = [f"object-{number}" for number in range(objects)]
    steps: dict[str, tuple[Callable[[str], object], Callable[[], bool]]] = {
        "creates": (lambda name: client.create(resource(namespace, name)), lambda: progress.ready == objects),
        "updates": (lambda name: client.edit(namespace, name, age=24), lambda: progress.ready == objects),
        "deletes": (lambda name: client.delete(namespace, name), lambda: progress.existing == 0),
    }
    legs = {}
    for step, (act, done) in steps.items():
        requests, cpu, versions = _requests(stack), _cpu(stack, pid), progress.versions
        with ThreadPoolExecutor(CLIENTS) as pool:
            sent = pool.map(act, names)

            def through(done: Callable[[], bool] = done, versions: int = versions) -> bool:
                # every object is stored twice at least: by the client, and by what answers it
                return progress.versions - versions >= 2 * objects and done()

            seconds = progress.wait_for(through, f"{step} in {namespace}", LONGEST)
            list(sent)
        spent = {part: (after - cpu[part]) * 1000 / objects for part, after in _cpu(stack, pid).items()}
        legs[step] = Leg(objects / seconds, spent, (_requests(stack) - requests) / objects)
    return legs


def _cpu(stack: Stack, pid: int) -> dict[str, float]:
    metacontroller = stack.metacontroller.process
    assert metacontroller is not None
    pids = (stack.api.pid("kube-apiserver"), stack.api.pid("etcd"), stack.postgres.pid, pid, metacontroller.pid)
    return dict(zip(PARTS, map(cpu_seconds, pids), strict=True))


def _requests(stack: Stack) -> int:
    return sum(count for verb, count in stack.client.writes().items() if not verb.startswith(_WATCHED))


def table(entries: Iterable[Entry]) -> list[str]:
    """Give the lines of a Markdown table: rates, requests and CPU time per object, medians over the rounds."""
    lines = [f"| step | who | controller | /s | requests | {' | '.join(f'{part} ms' for part in PARTS)} |"]
    lines.append("| --- | --- | --- |" + " --: |" * (2 + len(PARTS)))
    for step in STEPS:
        for entry in entries:
            numbers = [f"{entry.middle(step, lambda leg: leg.rate):.0f}"]
            numbers += [f"{entry.middle(step, lambda leg: leg.requests):.1f}"]
            numbers += [f"{entry.middle(step, lambda leg, p=part: leg.cpu_ms[p]):.2f}" for part in PARTS]  # type: ignore[misc]
            lines.append(f"| {step} | {entry.contender.name} | {entry.contender.controller} | {' | '.join(numbers)} |")
    return lines


def ratios(entries: Iterable[Entry], name: str) -> dict[str, float]:
    """Give, per kind of controller, someone's over the naive hook's: each rate, and the CPU of API server and hook."""
    by_name = {(entry.contender.name, entry.contender.controller): entry for entry in entries}
    figures = {}
    for kind in ("composite", "decorator"):
        ours, naive = by_name[name, kind], by_name[NAIVE, kind]
        for step in STEPS:
            figures[f"{kind}_{step}_ratio"] = round(ours.over(naive, step, lambda leg: leg.rate), 3)
        worst = max(ours.over(naive, s, lambda leg: leg.cpu_ms["API server"] + leg.cpu_ms["hook"]) for s in STEPS)
        figures[f"{kind}_cpu_ratio"] = round(worst, 3)
    return figures


def verdicts(figures: dict[str, float]) -> list[str]:
    """Give a line per figure: whether its target is met."""
    lines = []
    for name, value in figures.items():
        bound, at_least = next((b, least) for target, b, least in TARGETS if name.endswith(target))
        met = value >= bound if at_least else value <= bound
        lines.append(
            f"{'met   ' if met else 'MISSED'} {name} = {value:g} ({'at least' if at_least else 'at most'} {bound:g})"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
