"""A full disk ends an audit with a sentence, whatever it was just noting."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator

import pytest

from postgres_writer.audit.model import Finding, Resource
from postgres_writer.audit.spool import Spool
from postgres_writer.core.audit_result import Fault
from postgres_writer.errors import AuditError

COUNT = 2_000
Step = Callable[[Spool], object]


@pytest.fixture
def spool() -> Iterator[Spool]:
    opened = Spool()
    yield opened
    opened.close()


def fill_with_resources(spool: Spool) -> None:
    names = (f"default/{number:0100}" for number in range(COUNT))
    spool.note_resources(Resource(name, "students", "id", (), None, (), "", False, False) for name in names)


def fill_with_findings(spool: Spool) -> None:
    spool.add_findings(Finding(Fault.NO_RESOURCE, f"default/{number:0100}", "students") for number in range(COUNT))


def confirm(spool: Spool) -> None:
    spool.mark_unconfirmed()
    fill_with_findings(spool)
    spool.keep_confirmed()


@pytest.mark.parametrize(
    ("before", "step"),
    [(None, fill_with_resources), (None, fill_with_findings), (fill_with_findings, Spool.mark_unconfirmed)],
)
def test_a_full_disk_is_told_in_a_sentence(spool: Spool, before: Step | None, step: Step) -> None:
    if before is not None:
        before(spool)
    [(pages,)] = spool._db.execute("PRAGMA page_count")
    spool._db.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(AuditError, match="set TMPDIR to a folder with more space"):
        step(spool)


@pytest.mark.parametrize("step", [Spool.keep_confirmed, lambda spool: spool.note_resources(())])
def test_a_disk_that_fills_while_something_is_dropped_is_told_too(spool: Spool, step: Step) -> None:
    """SQLite keeps what it sorts and compares, and the pages that it changes, in files too."""
    spool._db.execute("PRAGMA cache_size = 10")
    fill_with_resources(spool)
    fill_with_findings(spool)
    spool.mark_unconfirmed()
    fill_with_findings(spool)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # to write beyond it is an error of the system, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(AuditError, match="set TMPDIR to a folder with more space"):
            step(spool)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_findings_are_confirmed_by_a_second_look(spool: Spool) -> None:
    fill_with_findings(spool)
    confirm(spool)
    assert sum(spool.summary().values()) == COUNT


def test_a_resource_with_several_findings_is_synced_once(spool: Spool) -> None:
    findings = [
        Finding(Fault.DIFFERS, "a/b", "students", repairable=True),
        Finding(Fault.DUPLICATE, "a/b", "public.old", repairable=True),
        Finding(Fault.MISSING, "a/c", "students", repairable=True),
        Finding(Fault.MISSING, "a/a", "students"),
    ]
    spool.add_findings(findings)
    assert list(spool.repairable()) == ["a/b", "a/c"]
