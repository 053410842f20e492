"""Creates, updates and deletes per second through a real API server, and what one object costs each process.

Run by `make bench NAME=cluster` (OBJECTS=500 of each kind and ROUNDS=8 by default: a quarter of an hour);
METACONTROLLER names its binary. This server and the naive hook race, each with both kinds of controller and of
resources; GO_OPERATOR names the binary of an operator to run along, and WITHOUT_EARLY_FINALIZER=1 lets this server run
like that, too.
Everyone runs once in every round, so that what else the machine does hits all alike, in a random order (SEED repeats
it), so that nobody always pays for what the one before left behind. The table shows medians, and the ratios are to the
naive hook of the same kinds in the same round. The tables are those of docs/performance.md.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench import report
from bench.contenders import CONTROLLERS, LATE, NAIVE, OURS, Contender, contenders
from bench.load import cpu_seconds
from bench.progress import Progress
from bench.report import Target
from postgres_writer.core.row import KINDS, Kind
from support.api_client import ApiClient
from support.kube_tools import find_tools
from support.metacontroller import SKIP_REASON, find_binary
from support.stack import Stack

OBJECTS = int(os.environ.get("OBJECTS") or 500)
ROUNDS = int(os.environ.get("ROUNDS") or 8)
CLIENTS = 16
WARM = min(100, OBJECTS)
LONGEST = 300.0
STEPS = ("creates", "updates", "deletes")
PARTS = ("API server", "etcd", "PostgreSQL", "hook", "Metacontroller")
_WATCHED = ("LIST", "WATCH", "DELETECOLLECTION")
"""Verbs of the benchmark's own and of caches that fill: not what an object costs."""

CPU = "cpu"
MEASURES = {**{step: f"{step}/s" for step in STEPS}, CPU: "CPU of API server and hook, the worst of the three"}
"""What is compared. The goal is 1.0 for all, at least for the rates and at most for the CPU."""


@dataclass(frozen=True)
class Leg:
    """One step of one contender in one round."""

    rate: float
    cpu_ms: dict[str, float]
    """CPU time per object in ms, by part."""
    requests: float
    """Requests per object that the API server answered, the client's own included."""


Figure = Callable[[Leg], float]


@dataclass
class Entry:
    """A contender with one kind of resources, and its legs by step, in the order of the rounds."""

    contender: Contender
    kind: Kind
    legs: dict[str, list[Leg]] = field(default_factory=lambda: {step: [] for step in STEPS})

    def middle(self, step: str, figure: Figure) -> float:
        """Give the median of a figure over the rounds."""
        return median(map(figure, self.legs[step]))

    def over(self, other: Entry, step: str, figure: Figure) -> list[float]:
        """Give the ratios to another's figure in the same round."""
        return [figure(a) / figure(b) for a, b in zip(self.legs[step], other.legs[step], strict=True)]


def main() -> int:
    """Run all rounds, print the tables, the verdicts and one line of JSON; 1 when a target is missed."""
    binary = find_binary()
    if binary is None:
        print(SKIP_REASON, file=sys.stderr)
        return 2
    seed = int(os.environ.get("SEED") or random.randrange(10_000))
    print(f"SEED={seed}", file=sys.stderr)
    running = contenders()
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), find_tools(), binary)
        try:
            stack.start()
            stack.recorder.stop()  # it decodes every version that is stored; this measures
            entries = _race(stack, running, random.Random(seed))
        finally:
            stack.stop()
    lines = [*summary(entries), "", *table(entries)]
    for name in dict.fromkeys(one.name for one in running if one.name in (OURS, LATE)):
        lines += ["", *ratio_table(entries, name)]
    figures = ratios(entries, OURS)
    judged = verdicts(figures)
    print("\n".join([*lines, "", *judged]))
    print(json.dumps({"objects": OBJECTS, "rounds": ROUNDS, "clients": CLIENTS, "seed": seed, **figures}))
    return int(any(line.startswith("MISSED") for line in judged))


def _race(stack: Stack, running: list[Contender], chance: random.Random) -> list[Entry]:
    """Let all contenders run in all rounds, in random orders."""
    for one in running:  # caches fill, etcd's file grows: at nobody's cost
        _run(stack, [Entry(one, kind) for kind in one.kinds], "warm", WARM)
    entries = [[Entry(one, kind) for kind in one.kinds] for one in running]
    for number in range(ROUNDS):
        for of_one in chance.sample(entries, len(entries)):
            _run(stack, chance.sample(of_one, len(of_one)), f"round-{number}", OBJECTS)
    return [entry for of_one in entries for entry in of_one]


def _run(stack: Stack, entries: list[Entry], name: str, objects: int) -> None:
    """Let one contender go through all steps with so many objects of each of its kinds, and note its legs."""
    contender = entries[0].contender
    namespace = f"{name}-{contender.controller}-{contender.run.__name__}"
    with contender.run(stack, contender.controller) as pid:
        stack.client.create_namespace(namespace)
        stack.wait_for_controller(kinds=contender.kinds)
        progress = Progress(stack.client)
        progress.start()
        try:
            for entry in entries:
                legs = _legs(progress, stack.client.of(entry.kind), namespace, lambda: _cpu(stack, pid), objects)
                for step, leg in legs.items():
                    entry.legs[step].append(leg)
                rates = ", ".join(f"{step} {leg.rate:.0f}/s" for step, leg in legs.items())
                who = f"{contender.name}, {contender.controller}, {entry.kind.name}"
                print(f"{name}: {who}: {rates}", file=sys.stderr, flush=True)
        finally:
            progress.stop()
    rows = stack.database.rows()
    if rows:
        raise AssertionError(f"{len(rows)} rows are left")


def _legs(
    progress: Progress, client: ApiClient, namespace: str, spent: Callable[[], dict[str, float]], objects: int
) -> dict[str, Leg]:
    """Create, update and delete all objects of a client's kind, each time until the last one has gone through."""
    names = [f"object-{number}" for number in range(objects)]
    older = client.manifest(namespace, "any", age=24)["spec"]
    # of a list a merge patch has to give the whole
    patch = {"spec": {name: older[name] for name in ("age", "columns") if name in older}}
    steps: dict[str, tuple[Callable[[str], object], Callable[[], bool]]] = {
        "creates": (lambda name: client.create(client.manifest(namespace, name)), lambda: progress.ready == objects),
        "updates": (lambda name: client.merge(namespace, name, patch), lambda: progress.ready == objects),
        "deletes": (lambda name: client.delete(namespace, name), lambda: progress.existing == 0),
    }
    legs = {}
    for step, (act, done) in steps.items():
        requests, cpu, versions = _requests(client), spent(), progress.versions
        with ThreadPoolExecutor(CLIENTS) as pool:
            sent = pool.map(act, names)

            def through(done: Callable[[], bool] = done, versions: int = versions) -> bool:
                # every object is stored twice at least: by the client, and by what answers it
                return progress.versions - versions >= 2 * objects and done()

            seconds = progress.wait_for(through, f"{step} in {namespace}", LONGEST)
            list(sent)
        cpu_ms = {part: (after - cpu[part]) * 1000 / objects for part, after in spent().items()}
        legs[step] = Leg(objects / seconds, cpu_ms, (_requests(client) - requests) / objects)
    return legs


def _cpu(stack: Stack, pid: int) -> dict[str, float]:
    metacontroller = stack.metacontroller.process
    assert metacontroller is not None
    pids = (stack.api.pid("kube-apiserver"), stack.api.pid("etcd"), stack.postgres.pid, pid, metacontroller.pid)
    return dict(zip(PARTS, map(cpu_seconds, pids), strict=True))


def _requests(client: ApiClient) -> int:
    answered = client.writes(client.kind.plural)
    return sum(count for verb, count in answered.items() if not verb.startswith(_WATCHED))


def summary(entries: Iterable[Entry]) -> list[str]:
    """Give the lines of a Markdown table: the rates without those of the decorator, medians over the rounds."""
    lines = [f"| | {' | '.join(f'{step}/s' for step in STEPS)} |", "| --- |" + " --: |" * len(STEPS)]
    for entry in entries:
        if entry.contender.controller != "decorator":
            rates = (f"{entry.middle(step, _rate):.0f}" for step in STEPS)
            lines.append(f"| {entry.contender.name}, {entry.kind.name} | {' | '.join(rates)} |")
    return lines


def table(entries: Iterable[Entry]) -> list[str]:
    """Give the lines of a Markdown table: rates, requests and CPU time per object, medians over the rounds."""
    lines = [f"| step | kind | who | controller | /s | requests | {' | '.join(f'{part} ms' for part in PARTS)} |"]
    lines.append("| --- | --- | --- | --- |" + " --: |" * (2 + len(PARTS)))
    for step in STEPS:
        for entry in sorted(
            entries, key=lambda entry: (list(KINDS).index(entry.kind.name), entry.contender.controller)
        ):
            numbers = [f"{entry.middle(step, _rate):.0f}"]
            numbers += [f"{entry.middle(step, lambda leg: leg.requests):.1f}"]
            numbers += [f"{entry.middle(step, lambda leg, p=part: leg.cpu_ms[p]):.2f}" for part in PARTS]  # type: ignore[misc]
            who = (step, entry.kind.name, entry.contender.name, entry.contender.controller)
            lines.append(f"| {' | '.join((*who, *numbers))} |")
    return lines


def ratio_table(entries: Iterable[Entry], name: str) -> list[str]:
    """Give the lines of a Markdown table: someone's ratios to the naive hook, their medians and their spread."""
    found = _ratios(entries, name)
    lines = [f"| {name} to the {NAIVE}, same round | {' | '.join(f'{kind}, {way}' for kind, way in found)} |"]
    lines.append("| --- |" + " --: |" * len(found))
    for measure, text in MEASURES.items():
        all_rounds = [by_measure[measure] for by_measure in found.values()]
        cells = [f"{median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in all_rounds]
        lines.append(f"| {text} | {' | '.join(cells)} |")
    return lines


def ratios(entries: Iterable[Entry], name: str) -> dict[str, float]:
    """Give the medians of someone's ratios to the naive hook, by what is compared."""
    return {
        f"{kind}_{way}_{measure}_ratio": round(median(each), 3)
        for (kind, way), by_measure in _ratios(entries, name).items()
        for measure, each in by_measure.items()
    }


def _ratios(entries: Iterable[Entry], name: str) -> dict[tuple[str, str], dict[str, list[float]]]:
    """Give someone's ratios to the naive hook in each round, by kinds of resource and controller and by measure.

    Of the CPU of API server and hook they are those of the step in which their median is the worst.
    """
    by_name = {(entry.contender.name, entry.kind.name, entry.contender.controller): entry for entry in entries}
    found = {}
    for kind in KINDS:
        for way in CONTROLLERS:
            mine, naive = by_name[name, kind, way], by_name[NAIVE, kind, way]
            rates = {step: mine.over(naive, step, _rate) for step in STEPS}
            costs = [
                mine.over(naive, step, lambda leg: leg.cpu_ms["API server"] + leg.cpu_ms["hook"]) for step in STEPS
            ]
            found[kind, way] = {**rates, CPU: max(costs, key=median)}
    return found


def _rate(leg: Leg) -> float:
    return leg.rate


def verdicts(figures: dict[str, float]) -> list[str]:
    """Give a line per figure: whether its target is met."""
    targets = [Target(name, 1.0, at_least=not name.endswith(f"{CPU}_ratio")) for name in figures]
    return report.verdicts(figures, targets)


if __name__ == "__main__":
    sys.exit(main())
