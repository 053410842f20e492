"""What the audit may call prunable, over all mixtures of resources, tables and rows that hypothesis can think of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postgres_writer.audit.model import Difference, Relation, Resource, Row, Tables, judge, own_row
from postgres_writer.audit.resources import ahead
from postgres_writer.core.audit_result import Kind

ID = "default/sample"
DIFFERENCE: Difference = (("age",), "")
NAMES = ["public.students", "public.old", "public.parted", "other.students"]
RELATIONS = [Relation(oid, name, column) for oid, name in enumerate(NAMES, 1) for column in ("id", "code")]
KEYS = [relation.key for relation in RELATIONS]


@st.composite
def tables(draw: st.DrawFn) -> Tables:
    known = {relation.key: relation for relation in draw(st.sets(st.sampled_from(RELATIONS)))}
    unreadable = dict.fromkeys(draw(st.sets(st.sampled_from(KEYS), max_size=2)), "denied")
    return Tables(known, unreadable, draw(st.sets(st.sampled_from(KEYS))))


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    found = []
    for relation in draw(st.lists(st.sampled_from(RELATIONS), max_size=4)):
        # a relation shows rows of its own, and those of a child (9)
        place = draw(st.sampled_from([(relation.oid, "(0,1)", "7"), (relation.oid, "(0,2)", "7"), (9, "(0,1)", "7")]))
        found.append(Row(ID, relation, place))
    return found


RESOURCES = st.builds(
    Resource,
    st.just(ID),
    st.sampled_from(["", "public.absent", *NAMES]),
    st.sampled_from(["id", "code"]),
    st.just(("age",)),
    st.none() | st.just('{"age": 23}'),
    st.lists(st.sampled_from(["public.absent", *NAMES]), max_size=3, unique=True).map(tuple),
    st.sampled_from(["", "RowSynced", "Unmanaged"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


@given(RESOURCES, rows(), tables(), st.none() | st.just(DIFFERENCE))
def test_a_row_of_a_resource_is_prunable_only_beside_its_certain_own_row(
    resource: Resource, found: list[Row], known: Tables, difference: Difference | None
) -> None:
    findings = list(judge(resource, found, own_row(resource, found, known), known, difference))
    prunable = [finding for finding in findings if finding.prunable]
    if not prunable:
        return
    assert {finding.kind for finding in prunable} == {Kind.DUPLICATE}
    assert not resource.deleting
    assert resource.reason != "Unmanaged"
    names = set(resource.keys)
    assert names <= known.relations.keys(), "every table that it names is known"
    assert resource.table in resource.tables
    assert resource.qualified, "the server itself wrote which tables these are"
    assert not names & known.unreadable.keys()
    named = {known.relations[name] for name in names}
    home = known.relations[resource.home]
    assert any(row.relation == home for row in found)
    for finding in prunable:
        shown = {row.relation for row in found if row.place == finding.place}
        assert not shown & named, "neither spec.table nor status.tables shows it"
        assert not finding.repairable


@given(rows(), tables())
def test_a_row_without_a_resource_is_prunable_only_where_somebody_vouches(found: list[Row], known: Tables) -> None:
    findings = list(judge(None, found, None, known))
    assert all(finding.kind is Kind.NO_RESOURCE for finding in findings)
    places = [finding.place for finding in findings]
    assert sorted(places) == sorted({row.place for row in found}), "each place once"
    assert {(finding.table, finding.id_column) for finding in findings if finding.prunable} <= known.certain


def test_pages_that_are_read_ahead_come_in_order_and_with_their_error() -> None:
    def pages() -> Iterator[Any]:
        yield from range(5)
        raise ValueError("gone")

    reader = ahead(pages())
    assert [next(reader) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="gone"):
        next(reader)
    assert list(ahead(iter("abc"))) == ["a", "b", "c"]
