"""What the long benchmarks of the cluster make of their figures, and the parts of theirs that need no cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

import pytest
from psycopg2.extensions import make_dsn

from bench import naive, race, report, scale, scale_tables
from bench.contenders import LATE, NAIVE, OPERATOR, OURS, WITHOUT, contenders
from bench.race import PARTS, STEPS, Entry, Leg
from postgres_writer.core.row import KINDS, POSTGRES_ROW, POSTGRES_WRITER, Kind
from support.api_client import resource
from support.postgres import Database

RATES = {OURS: (110.0, 240.0, 270.0), NAIVE: (100.0, 200.0, 300.0), LATE: (50.0, 100.0, 150.0)}


def shape(lines: list[str]) -> list[int]:
    """Return the number of cells of each line of a table, of which the second is Markdown's rule."""
    assert set(lines[1]) <= set("| -:")
    return [line.count("|") - 1 for line in lines]


def raced(rates: Mapping[str, tuple[float, ...]]) -> list[Entry]:
    """Return who ran, each with the same rates in every step, by name and round."""
    entries = [Entry(one, kind) for one in contenders() for kind in one.kinds]
    for entry in entries:
        for step in STEPS:
            entry.legs[step] = [
                Leg(100, 100 / rate, dict.fromkeys(PARTS, 100 / rate), 300) for rate in rates[entry.contender.name]
            ]
    return entries


class TestRace:
    @pytest.fixture(autouse=True)
    def environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in (WITHOUT, OPERATOR):
            monkeypatch.delenv(name, raising=False)

    def test_everyone_has_both_kinds_and_both_controllers(self) -> None:
        ran = {(entry.contender.name, entry.contender.controller, entry.kind.name) for entry in raced(RATES)}
        ways = ("composite", "decorator")
        assert ran == {(name, way, kind) for name in (OURS, NAIVE) for way in ways for kind in KINDS}

    def test_turns_share_all_objects_and_none_is_small(self) -> None:
        for seed in range(200):
            sizes = list(race._sizes(500, Random(seed)))
            assert (sum(sizes), min(sizes) >= race.TURN // 2, max(sizes) < 2 * race.TURN) == (500, True, True)
        assert list(race._sizes(30, Random(1))) == [30]

    def test_a_ratio_is_the_median_of_all_turns_and_has_its_spread(self) -> None:
        lines = race.ratio_table(raced(RATES), OURS)
        assert shape(lines) == [5] * (2 + len(race.MEASURES))
        assert lines[0].count("PostgresRow, ") == lines[0].count("PostgresWriter, ") == 2
        for line in lines[2:5]:
            assert line.count(" 1.10 (1.00 to 1.15) ") == 4
        assert lines[5].count(" 0.91 (0.87 to 1.01) ") == 4

    def test_a_single_turn_has_ratios_too(self) -> None:
        lines = race.ratio_table(raced({name: rates[:1] for name, rates in RATES.items()}), OURS)
        assert all(line.count(" 1.10 (1.10 to 1.10) ") == 4 for line in lines[2:5])

    def test_a_target_is_missed_below_the_naive_hook(self) -> None:
        entries = raced(RATES | {OURS: (99.0, 199.0, 270.0)})
        judged = race.verdicts(race.ratios(entries, OURS))
        assert len(judged) == 4 * len(race.MEASURES)
        assert all(line.startswith("MISSED") for line in judged)
        assert all(line.startswith("met") for line in race.verdicts(race.ratios(raced(RATES), OURS)))

    def test_without_early_finalizer_is_one_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(WITHOUT, "1")
        entries = raced(RATES)
        assert race.ratio_table(entries, LATE)[2].count(" 0.50 (0.50 to 0.50) ") == 4
        assert shape(race.table(entries)) == [6 + len(PARTS)] * (2 + 3 * 3 * 4)
        assert shape(race.summary(entries)) == [4] * (2 + 3 * 2)


class TestNaiveHook:
    @pytest.fixture
    def table(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
        monkeypatch.setenv("NAIVE_DSN", make_dsn(**database.connect))
        yield database
        naive._local.connection.close()
        del naive._local.connection

    @pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
    @pytest.mark.parametrize(("parent", "children"), [("parent", "children"), ("object", "attachments")])
    def test_it_writes_the_row_of_either_kind(self, table: Database, kind: Kind, parent: str, children: str) -> None:
        client = naive.app.test_client()

        def answer(hook: str, age: int) -> Any:
            found = resource("default", "alex", kind, age=age)
            found["metadata"]["generation"] = age
            return client.post(f"/{hook}", json={parent: found}).json

        for age in (23, 24):
            assert answer("sync", age)[children] == []
            assert table.rows() == [("default/alex", "alex", age, "canada")]
        assert answer("finalize", 24)["finalized"]
        assert table.rows() == []


class TestScale:
    def test_a_third_are_rows_and_half_of_each_kind_in_another_database(self) -> None:
        made = [scale.manifest(number)["spec"].keys() for number in range(600)]
        found = Counter(("columns" in spec, "database" in spec) for spec in made)
        assert found == {(True, True): 100, (True, False): 100, (False, True): 200, (False, False): 200}
        assert {scale.manifest(number)["kind"] for number in (1, 2)} == {POSTGRES_WRITER.name, POSTGRES_ROW.name}

    def test_its_findings_are_two_tables(self) -> None:
        parts = scale_tables.PARTS
        found: dict[str, Any] = {
            "objects": 30_000,
            "create_seconds": 100,
            "etcd_bytes_per_object": 2000,
            "steady_calls_per_second": 50.0,
            "steady_writes": 0,
            "audit_seconds": 7.0,
            "audit": {"resources": 30_000, "rows": 30_000, "tables": 2, "findings": {}},
            **{f"creates_per_second_at_{mark}": 200 for mark in (1_000, 30_000)},
            **{f"create_cpu_ms_at_{mark}": dict.fromkeys(parts, 1.0) for mark in (1_000, 30_000)},
            **{f"{part}_mb": 2048 for part in parts},
            **{f"steady_{part}_cpu_cores": 0.1 for part in parts},
            **{f"restart_{figure}": 2 for figure in ("storm_seconds", "writes", "new_object_seconds")},
        }
        for outage in ("without_postgresql", "without_hook_servers"):
            figures = ("seconds", "new", "new_objects_seconds", "all_ready_seconds", "not_ready", "writes")
            found |= {f"{outage}_{figure}": 20 for figure in (*figures, "event_writes")}
        lines = scale_tables.tables(found)
        gap = lines.index("")
        assert shape(lines[:gap]) == [2 + len(parts)] * 4
        assert set(shape(lines[gap + 1 :])) == {2}
        assert "| so with P = 300 (100 calls/s), cores | API server 0.20, etcd 0.20," in "\n".join(lines)
        assert len(scale_tables.tables({**found, "steady_calls_per_second": 0.0})) == len(lines) - 1
        assert "API server 2.0 GB" in "\n".join(lines)


def test_every_target_is_in_the_table_of_promises() -> None:
    listed = [key for keys in report.PROMISES.values() for key in keys]
    assert sorted(listed) == sorted(target.key for target in report.TARGETS)
    targets = {target.key: (target.bound, target.at_least) for target in report.TARGETS}
    assert all(len({targets[key] for key in keys}) == 1 for keys in report.PROMISES.values())
    assert shape(report.promises(dict.fromkeys(listed, 1.234))) == [3] * (2 + len(report.PROMISES))
