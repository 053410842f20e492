"""Creates, updates and deletes per second through a real API server, and what one object costs each process.

Run by `make bench NAME=cluster` (OBJECTS=500 of each kind and ROUNDS=8 by default: less than half an hour);
METACONTROLLER names its binary. This server and the naive hook race, each with both kinds of controller and of
resources; GO_OPERATOR names the binary of an operator to run along, and WITHOUT_EARLY_FINALIZER=1 lets this server run
like that, too.
Everyone has an API server, a Metacontroller and a PostgreSQL of its own, which run at the same time, and they take
turns in a random order (SEED repeats it), with about a hundred objects and for half a second each: a shared machine
changes its speed by half from minute to minute. Before each turn the API server collects its garbage: to do so takes it
a quarter of its time, about once for a hundred objects, and whom chance lets pay for it once more or less differs by
several per cent. After each four rounds everyone begins anew, so that no difference between two starts of a process
decides either.
The tables are those of docs/performance.md. Rates and costs are of all rounds together; the ratios to the naive hook of
the same kinds are medians of those in the same turns.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

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
HEAT = 4
TURN = 100
CLIENTS = 16
LONGEST = 300.0
NAMESPACE = "race"
STEPS = ("creates", "updates", "deletes")
PARTS = ("API server", "etcd", "PostgreSQL", "hook", "Metacontroller")
_WATCHED = ("LIST", "WATCH", "DELETECOLLECTION")
"""Verbs of the benchmark's own and of caches that fill: not what an object costs."""

CPU = "cpu"
MEASURES = {**{step: f"{step}/s" for step in STEPS}, CPU: "CPU of API server and hook, the worst of the three"}
"""What is compared. The goal is 1.0 for all, at least for the rates and at most for the CPU."""


@dataclass(frozen=True)
class Leg:
    """One step of one contender, in one turn or in several together."""

    objects: int
    seconds: float
    cpu_seconds: dict[str, float]
    """By part."""
    requests: int
    """Which the API server answered, the client's own included."""

    @property
    def rate(self) -> float:
        """Objects per second."""
        return self.objects / self.seconds

    def cpu_ms(self, *parts: str) -> float:
        """Give the CPU time per object in ms that some parts took together."""
        return sum(self.cpu_seconds[part] for part in parts) * 1000 / self.objects

    def __add__(self, other: Leg) -> Leg:
        """Give both together."""
        spent = {part: seconds + other.cpu_seconds[part] for part, seconds in self.cpu_seconds.items()}
        return Leg(self.objects + other.objects, self.seconds + other.seconds, spent, self.requests + other.requests)


Figure = Callable[[Leg], float]


class Ratio(NamedTuple):
    """The median of the ratios in the same turns, and their quartiles."""

    middle: float
    lower: float
    upper: float


@dataclass
class Entry:
    """A contender with one kind of resources, and its legs by step, in the order of the turns."""

    contender: Contender
    kind: Kind
    legs: dict[str, list[Leg]] = field(default_factory=lambda: {step: [] for step in STEPS})

    def all(self, step: str) -> Leg:
        """Give all turns together."""
        return functools.reduce(Leg.__add__, self.legs[step])

    def over(self, other: Entry, step: str, figure: Figure) -> Ratio:
        """Give the ratio to another's figure."""
        turns = [figure(a) / figure(b) for a, b in zip(self.legs[step], other.legs[step], strict=True)]
        # of a single one Python gives quantiles from 3.13 on
        lower, middle, upper = quantiles(turns, method="inclusive") if len(turns) > 1 else turns * 3
        return Ratio(middle, lower, upper)


def main() -> int:
    """Run all rounds, print the tables, the verdicts and one line of JSON; 1 when a target is missed."""
    binary = find_binary()
    if binary is None:
        print(SKIP_REASON, file=sys.stderr)
        return 2
    seed = int(os.environ.get("SEED") or random.randrange(10_000))
    print(f"SEED={seed}", file=sys.stderr)
    chance = random.Random(seed)
    entries = [Entry(one, kind) for one in contenders() for kind in one.kinds]
    for first in range(0, ROUNDS, HEAT):
        # not all at once: an API server without work takes some of the processor, too
        for way in dict.fromkeys(entry.contender.controller for entry in entries):
            racing = [entry for entry in entries if entry.contender.controller == way]
            _heat(racing, binary, chance, range(first, min(first + HEAT, ROUNDS)))
    lines = [*summary(entries), "", *table(entries)]
    for name in dict.fromkeys(one.contender.name for one in entries if one.contender.name in (OURS, LATE)):
        lines += ["", *ratio_table(entries, name)]
    figures = ratios(entries, OURS)
    judged = verdicts(figures)
    print("\n".join([*lines, "", *judged]))
    print(json.dumps({"objects": OBJECTS, "rounds": ROUNDS, "clients": CLIENTS, "seed": seed, **figures}))
    return int(any(line.startswith("MISSED") for line in judged))


def _heat(entries: list[Entry], binary: Path, chance: random.Random, rounds: range) -> None:
    """Let those who use the same kind of controller run against each other in these rounds, with new processes."""
    with contextlib.ExitStack() as running:
        racing = {entry.contender.name: entry.contender for entry in entries}
        lanes = {name: running.enter_context(_lane(one, binary)) for name, one in racing.items()}
        # caches fill, files grow: at nobody's cost
        _round([Entry(entry.contender, entry.kind) for entry in entries], lanes, chance, min(TURN, OBJECTS))
        for number in rounds:
            _round(entries, lanes, chance, OBJECTS)
            print(f"{entries[0].contender.controller}: round {number + 1} of {ROUNDS}", file=sys.stderr, flush=True)
        for name, lane in lanes.items():
            if rows := lane.stack.database.rows():
                raise AssertionError(f"{name}: {len(rows)} rows are left")


def _round(entries: list[Entry], lanes: dict[str, Lane], chance: random.Random, objects: int) -> None:
    """Let everyone go through all steps with so many objects, turn by turn."""
    for kind in KINDS.values():
        rivals = [entry for entry in entries if entry.kind is kind]
        for size in _sizes(objects, chance):
            for step in STEPS:
                for entry in chance.sample(rivals, len(rivals)):
                    entry.legs[step].append(lanes[entry.contender.name].run(step, kind, size))


def _sizes(objects: int, chance: random.Random) -> Iterator[int]:
    """Share out so many objects to turns of about TURN; half as many are the least."""
    while objects:
        size = chance.randint(TURN // 2, TURN * 3 // 2)
        size = objects if objects < size + TURN // 2 else size
        objects -= size
        yield size


@contextlib.contextmanager
def _lane(contender: Contender, binary: Path) -> Iterator[Lane]:
    """Start all that a contender runs with."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder), find_tools(), binary)
        try:
            stack.start()
            stack.recorder.stop()  # it decodes every version that is stored; this measures
            with contender.run(stack, contender.controller) as pid:
                stack.client.create_namespace(NAMESPACE)
                stack.wait_for_controller(kinds=contender.kinds)
                progress = Progress(stack.client)
                progress.start()
                try:
                    yield Lane(stack, pid, progress)
                finally:
                    progress.stop()
        finally:
            stack.stop()


@dataclass(frozen=True)
class Lane:
    """What one contender runs with: the processes, ``pid`` among them for what serves it, and what has come of it."""

    stack: Stack
    pid: int
    progress: Progress

    def run(self, step: str, kind: Kind, objects: int) -> Leg:
        """Create, update or delete so many objects of a kind, until the last one has gone through."""
        client, progress = self.stack.client.of(kind), self.progress
        older = client.manifest(NAMESPACE, "any", age=24)["spec"]
        # of a list a merge patch has to give the whole
        patch = {"spec": {name: older[name] for name in ("age", "columns") if name in older}}
        act: Callable[[str], object] = {
            "creates": lambda name: client.create(client.manifest(NAMESPACE, name)),
            "updates": lambda name: client.merge(NAMESPACE, name, patch),
            "deletes": lambda name: client.delete(NAMESPACE, name),
        }[step]
        requests, versions = _requests(client), progress.versions
        client.collect_garbage()
        cpu = self._cpu()

        def through() -> bool:
            # every object is stored twice at least: by the client, and by what answers it
            stored = progress.versions - versions >= 2 * objects
            return stored and (progress.existing == 0 if step == "deletes" else progress.ready == objects)

        with ThreadPoolExecutor(CLIENTS) as pool:
            sent = pool.map(act, [f"object-{number}" for number in range(objects)])
            seconds = progress.wait_for(through, f"{step} of {kind.plural}", LONGEST)
            list(sent)
        spent = {part: after - cpu[part] for part, after in self._cpu().items()}
        return Leg(objects, seconds, spent, _requests(client) - requests)

    def _cpu(self) -> dict[str, float]:
        metacontroller = self.stack.metacontroller.process
        assert metacontroller is not None
        servers = self.stack.api.pid("kube-apiserver"), self.stack.api.pid("etcd"), self.stack.postgres.pid
        return dict(zip(PARTS, map(cpu_seconds, (*servers, self.pid, metacontroller.pid)), strict=True))


def _requests(client: ApiClient) -> int:
    answered = client.writes(client.kind.plural)
    return sum(count for verb, count in answered.items() if not verb.startswith(_WATCHED))


def summary(entries: Iterable[Entry]) -> list[str]:
    """Give the lines of a Markdown table: the rates without those of the decorator."""
    lines = [f"| | {' | '.join(f'{step}/s' for step in STEPS)} |", "| --- |" + " --: |" * len(STEPS)]
    for entry in entries:
        if entry.contender.controller != "decorator":
            rates = (f"{entry.all(step).rate:.0f}" for step in STEPS)
            lines.append(f"| {entry.contender.name}, {entry.kind.name} | {' | '.join(rates)} |")
    return lines


def table(entries: Iterable[Entry]) -> list[str]:
    """Give the lines of a Markdown table: rates, requests and CPU time per object."""
    lines = [f"| step | kind | who | controller | /s | requests | {' | '.join(f'{part} ms' for part in PARTS)} |"]
    lines.append("| --- | --- | --- | --- |" + " --: |" * (2 + len(PARTS)))
    for step in STEPS:
        for entry in sorted(
            entries, key=lambda entry: (list(KINDS).index(entry.kind.name), entry.contender.controller)
        ):
            leg = entry.all(step)
            numbers = [f"{leg.rate:.0f}", f"{leg.requests / leg.objects:.1f}"]
            numbers += [f"{leg.cpu_ms(part):.2f}" for part in PARTS]
            who = (step, entry.kind.name, entry.contender.name, entry.contender.controller)
            lines.append(f"| {' | '.join((*who, *numbers))} |")
    return lines


def ratio_table(entries: Iterable[Entry], name: str) -> list[str]:
    """Give the lines of a Markdown table: someone's ratios to the naive hook, and between what half of them are."""
    found = _ratios(entries, name)
    lines = [f"| {name} to the {NAIVE} | {' | '.join(f'{kind}, {way}' for kind, way in found)} |"]
    lines.append("| --- |" + " --: |" * len(found))
    for measure, text in MEASURES.items():
        each = [by_measure[measure] for by_measure in found.values()]
        cells = [f"{ratio.middle:.2f} ({ratio.lower:.2f} to {ratio.upper:.2f})" for ratio in each]
        lines.append(f"| {text} | {' | '.join(cells)} |")
    return lines


def ratios(entries: Iterable[Entry], name: str) -> dict[str, float]:
    """Give someone's ratios to the naive hook, by what is compared."""
    return {
        f"{kind}_{way}_{measure}_ratio": round(ratio.middle, 3)
        for (kind, way), by_measure in _ratios(entries, name).items()
        for measure, ratio in by_measure.items()
    }


def _ratios(entries: Iterable[Entry], name: str) -> dict[tuple[str, str], dict[str, Ratio]]:
    """Give someone's ratios to the naive hook, by kinds of resource and controller and by measure.

    That of the CPU of API server and hook is of the step in which it is the worst.
    """
    by_name = {(entry.contender.name, entry.kind.name, entry.contender.controller): entry for entry in entries}
    found = {}
    for kind in KINDS:
        for way in CONTROLLERS:
            mine, naive = by_name[name, kind, way], by_name[NAIVE, kind, way]
            rates = {step: mine.over(naive, step, lambda leg: leg.rate) for step in STEPS}
            costs = [mine.over(naive, step, lambda leg: leg.cpu_ms("API server", "hook")) for step in STEPS]
            found[kind, way] = {**rates, CPU: max(costs)}
    return found


def verdicts(figures: dict[str, float]) -> list[str]:
    """Give a line per figure: whether its target is met."""
    targets = [Target(name, 1.0, at_least=not name.endswith(f"{CPU}_ratio")) for name in figures]
    return report.verdicts(figures, targets)


if __name__ == "__main__":
    sys.exit(main())
