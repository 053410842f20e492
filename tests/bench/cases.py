"""The cases: every endpoint at every concurrency, in rounds, so that what else the machine does hits all alike."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from statistics import median

from bench import bodies, load
from bench.load import Load, Measured
from bench.servers import Bench, fill
from support.server import ServerProcess

OBJECTS = 10_000
"""Different synced objects; their rows are in the database from the start."""
_ENDLESS = 10**9
_WARM = 10**8
"""Objects from this number on are only for warming up."""
_MOST_DELETES = 6_000
"""Rows per second of a finalize case that wait to be deleted; more than any machine deletes."""
_SCRAPE_SECONDS = 1.0
"""Prometheus scrapes every 15 to 60 s."""
ROWS = {"3 columns": bodies.ROW, "30 columns": bodies.WIDE}
"""The PostgresRows that are compared with a PostgresWriter."""
Kind = tuple[int, bool, str]
"""How many connections, whether each serves one request only, and the scheme."""


@dataclass
class Case:
    """One line of the table: who is asked what, over how many connections, and what came of every round."""

    name: str
    server: ServerProcess
    load: Load
    operation: str = ""
    """What the hook must have done with every request; empty for the bare endpoint."""
    prepare: Callable[[int, int], None] | None = None
    """Called with (first number, seconds) before every round."""
    scraped: bool = False
    """Whether /metrics is read meanwhile, again and again."""
    first: int = 0
    rounds: list[Measured] = field(default_factory=list)

    @property
    def connections(self) -> int:
        """The number of connections at a time."""
        return self.load.connections

    @property
    def kind(self) -> Kind:
        """What must be the same for two cases to be compared."""
        return self.connections, self.load.close, self.server.scheme

    def middle(self, figure: Callable[[Measured], float]) -> float:
        """Give the median of a figure over the rounds."""
        return median(figure(measured) for measured in self.rounds)

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.middle(lambda measured: measured.rate)

    @property
    def server_ms(self) -> float:
        """CPU time of the server per request in ms, over all rounds."""
        return 1000 * sum(m.server_cpu for m in self.rounds) / sum(m.requests for m in self.rounds)

    @property
    def database_ms(self) -> float:
        """CPU time of PostgreSQL per request in ms, over all rounds."""
        return 1000 * sum(m.database_cpu for m in self.rounds) / sum(m.requests for m in self.rounds)

    def over(self, other: Case, figure: Callable[[Measured], float]) -> float:
        """Give the median of the ratios of a figure to that of another case in the same round."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return median(figure(mine) / figure(theirs) for mine, theirs in pairs)


def keep_alive_cases(parts: Bench, concurrencies: Iterable[int]) -> list[Case]:
    """Give the bare endpoint, no-op, write and finalize over connections that stay open."""
    found = []
    for connections in concurrencies:
        found += [
            bare(parts, connections),
            noop(parts.hook, connections),
            write(parts.hook, connections, f"write-{connections}"),
            finalize(parts, connections),
        ]
    return found


def bare(parts: Bench, connections: int, *, close: bool = False) -> Case:
    """Give the yardstick: the body of a no-op sync to an endpoint that does nothing with it."""
    template = bodies.sync("noop", synced=True)
    name = "bare Flask, new connections" if close else "bare Flask"
    return Case(name, parts.bare, Load(f"{parts.bare.url}/sync", template, connections, OBJECTS, close))


def row_cases(hook: ServerProcess, prefix: str = "write") -> list[Case]:
    """Give no-op and write of a PostgresRow with the columns of a PostgresWriter, and of one with 30."""
    return [
        case
        for name, shape in ROWS.items()
        for case in (
            noop(hook, 16, f"no-op, {name}", bodies.sync("noop", synced=True, shape=shape)),
            write(hook, 16, f"{prefix}-{shape.table}", f"write, {name}", shape),
        )
    ]


def noop(
    server: ServerProcess, connections: int, name: str = "no-op", template: str = "", *, close: bool = False
) -> Case:
    """Give the sync of objects whose rows stand as they should."""
    body = template or bodies.sync("noop", synced=True)
    return Case(name, server, Load(f"{server.url}/sync", body, connections, OBJECTS, close), "unchanged")


def write(
    server: ServerProcess, connections: int, prefix: str, name: str = "write", shape: bodies.Shape = bodies.WRITER
) -> Case:
    """Give the first sync of an object: every request inserts a row."""
    body = bodies.sync(prefix, synced=False, shape=shape)
    return Case(name, server, Load(f"{server.url}/sync", body, connections, _ENDLESS), "inserted")


def finalize(parts: Bench, connections: int) -> Case:
    """Give the deletion of an object whose row is there."""
    prefix = f"finalize-{connections}"

    def rows_to_delete(first: int, seconds: int) -> None:
        fill(parts.database, prefix, range(first, first + _MOST_DELETES * seconds))

    load_ = Load(f"{parts.hook.url}/finalize", bodies.finalize(prefix), connections, _ENDLESS)
    return Case("finalize", parts.hook, load_, "deleted", rows_to_delete)


def run_rounds(cases: list[Case], rounds: int, seconds: int, postgres: int) -> None:
    """Measure all cases one after the other, as often as there are rounds; ``postgres`` is the postmaster's pid."""
    for _ in range(rounds):
        for case in cases:
            _run(case, seconds, postgres)


@contextlib.contextmanager
def _scraping(server: ServerProcess) -> Iterator[None]:
    """Read /metrics as long as the block runs, far more often than Prometheus does."""
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(_SCRAPE_SECONDS):
            # over a connection of its own, or the same worker would answer every time
            server.get("/metrics", headers={"Connection": "close"}).raise_for_status()

    with ThreadPoolExecutor(1) as pool:
        scraper = pool.submit(scrape)
        try:
            yield
        finally:
            over.set()
        scraper.result()


def _run(case: Case, seconds: int, postgres: int) -> None:
    # the case before may have needed fewer connections to PostgreSQL: opening one hashes a password for milliseconds
    load.run(case.load, 1, _WARM)
    if case.prepare is not None:
        case.prepare(case.first, seconds)
    server_before, database_before = load.cpu_seconds(case.server.pid), load.cpu_seconds(postgres)
    with _scraping(case.server) if case.scraped else contextlib.nullcontext():
        measured = load.run(case.load, seconds, case.first)
    server_cpu = load.cpu_seconds(case.server.pid) - server_before
    database_cpu = load.cpu_seconds(postgres) - database_before
    case.rounds.append(replace(measured, server_cpu=server_cpu, database_cpu=database_cpu))
    # wrk sends one more on every connection before it ends
    case.first += measured.requests + 2 * case.connections if case.load.objects == _ENDLESS else 0
