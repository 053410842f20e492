"""The wire becomes a value: identity is demanded, everything else is taken as it comes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postgres_writer.core.request import HookRequest, PriorStatus, load_request
from postgres_writer.core.row import COLUMNS, Spec, is_table, is_text
from postgres_writer.errors import InvalidRequest
from support.payloads import DELETED, THEN, condition, finalizer, payload, recorded, resource
from support.spec_cases import ABSENT, INVALID_SPECS, SPEC_CASES, WIRE_ONLY, SpecCase, spec_with


def loaded(spec: Any = None, status: Any = ABSENT, **metadata: Any) -> HookRequest:
    return load_request(payload(resource(spec, status, **metadata)))


@pytest.mark.parametrize("case", [*SPEC_CASES, *WIRE_ONLY], ids=lambda case: case.id)
def test_spec(case: SpecCase) -> None:
    body = payload(resource())
    body["parent"] = {**body["parent"], **case.manifest("sample")}
    body["parent"].pop("spec") if case.spec is ABSENT else None
    request = load_request(body)
    if case.valid:
        assert request.problem == ""
        relation = case.spec["table"] if "." in case.spec["table"] else f"public.{case.spec['table']}"
        assert request.spec == Spec(relation, tuple((column, case.spec[column]) for column in COLUMNS))
    else:
        assert request.spec is None
        assert request.problem.startswith("spec is required" if case.field == "spec" else f"spec.{case.field} ")


def test_several_broken_fields_get_a_sentence_each_in_the_order_of_the_spec() -> None:
    problem = loaded({"country": "", "age": -1, "name": None}).problem
    found = [sentence.split()[0] for sentence in problem.split(". ")]
    assert found == ["spec.table", "spec.name", "spec.age", "spec.country"]


@pytest.mark.parametrize("case", [*INVALID_SPECS, *WIRE_ONLY], ids=lambda case: case.id)
def test_a_problem_never_repeats_the_value(case: SpecCase) -> None:
    body = payload({**case.manifest(), "metadata": resource()["metadata"]})
    problem = load_request(body).problem
    assert len(problem) < 1000
    assert problem.isascii()
    assert "DROP" not in problem


def _with(field: str, value: object) -> dict[str, Any]:
    metadata: dict[str, Any] = {field: value}
    return resource(**metadata)


NO_REQUEST: list[tuple[str, Any, str]] = [
    ("a list", [], "JSON object"),
    ("a text", "parent", "JSON object"),
    ("null", None, "JSON object"),
    ("true", True, "JSON object"),
    ("a number", 7, "JSON object"),
    ("nothing in it", {}, "either 'parent'"),
    ("neither parent nor object", {"controller": {}, "children": {}}, "either 'parent'"),
    ("parent and object", {"parent": resource(), "object": resource()}, "either 'parent'"),
    ("parent and object are null", {"parent": None, "object": None}, "either 'parent'"),
    ("parent is a list", {"parent": []}, "resource in the body"),
    ("object is a text", {"object": "x"}, "resource in the body"),
    ("parent is false", {"parent": False}, "resource in the body"),
    ("no metadata", {"parent": {"spec": spec_with()}}, "must have metadata"),
    ("metadata is null", {"parent": {"metadata": None}}, "must have metadata"),
    ("metadata is a list", {"parent": {"metadata": []}}, "must have metadata"),
    ("metadata is a text", {"parent": {"metadata": "x"}}, "must have metadata"),
    *(
        (f"{field}: {what}", {"parent": _with(field, value)}, f"metadata.{field}")
        for field in ("namespace", "name")
        for what, value in (
            ("missing", ABSENT),
            ("null", None),
            ("empty", ""),
            ("a number", 7),
            ("a list", ["x"]),
            ("a NUL", "a\0b"),
            ("a lone surrogate", "a\ud800"),
        )
    ),
]


@pytest.mark.parametrize(("body", "sentence"), [case[1:] for case in NO_REQUEST], ids=[case[0] for case in NO_REQUEST])
def test_no_hook_request(body: Any, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        load_request(body)


def test_both_shapes_become_the_same_value_but_for_the_kind_of_controller() -> None:
    composite = load_request(payload(resource(), "composite"))
    decorator = load_request(payload(resource(controller="decorator"), "decorator"))
    assert (composite.controller, decorator.controller) == ("composite", "decorator")
    assert composite.id == decorator.id == "default/sample"
    assert composite.spec == decorator.spec
    assert composite.last_finalizer
    assert decorator.last_finalizer


@pytest.mark.parametrize(
    ("hook_finalize", "flag", "metadata", "expected"),
    [
        pytest.param(False, False, {}, (False, False), id="sync of a living resource"),
        pytest.param(True, False, {}, (True, False), id="the finalize hook"),
        pytest.param(False, True, {}, (True, False), id="the request says finalizing"),
        pytest.param(False, "yes", {}, (False, False), id="finalizing is no boolean"),
        pytest.param(False, False, DELETED, (True, True), id="sync of a resource that is being deleted"),
        pytest.param(True, True, DELETED, (True, True), id="finalize of a resource that is being deleted"),
    ],
)
def test_what_is_to_be_finalized(
    hook_finalize: bool, flag: Any, metadata: dict[str, Any], expected: tuple[bool, bool]
) -> None:
    body = {**payload(resource(**metadata)), "finalizing": flag}
    request = load_request(body, finalizing=hook_finalize)
    assert (request.finalizing, request.deleting) == expected


@pytest.mark.parametrize(
    ("finalizers", "last"),
    [
        pytest.param(ABSENT, True, id="no finalizers"),
        pytest.param([], True, id="an empty list"),
        pytest.param([finalizer()], True, id="only the controller's own"),
        pytest.param([finalizer(), "example.com/other"], False, id="another one"),
        pytest.param([finalizer("decorator")], False, id="that of the other kind of controller"),
        pytest.param([7], False, id="a foreign shape"),
        pytest.param("x", True, id="no list"),
    ],
)
def test_last_finalizer(finalizers: Any, last: bool) -> None:
    assert loaded(finalizers=finalizers).last_finalizer is last


@pytest.mark.parametrize("definition", [None, [], {}, {"metadata": None}, {"metadata": {"name": 7}}])
def test_without_the_controllers_name_no_finalizer_is_its_own(definition: Any) -> None:
    assert not load_request({**payload(resource()), "controller": definition}).last_finalizer


@pytest.mark.parametrize(
    ("annotations", "paused"),
    [
        *(({"demo.yash.com/paused": value}, "true") for value in ("true", "True", "yes", "Yes", "on", "ON", "y", "1")),
        *(({"demo.yash.com/paused": value}, value) for value in ("tru", "2", " ", "fAlSe", "null", "until Monday")),
        *(({"demo.yash.com/paused": value}, "") for value in ("false", "False", "no", "off", "OFF", "n", "0", "")),
        ({}, ""),
        (None, ""),
        (["demo.yash.com/paused"], ""),
    ],
)
def test_the_annotation_is_read_like_a_boolean_of_yaml_and_pauses_where_it_cannot_be(
    annotations: Any, paused: str
) -> None:
    assert loaded(annotations=annotations).paused == paused


@pytest.mark.parametrize(("value", "generation"), [(3, 3), (0, 0), (-1, 0), (True, 0), ("3", 0), (2**63, 0), (1.0, 0)])
def test_generation(value: Any, generation: int) -> None:
    assert loaded(generation=value).generation == generation


@pytest.mark.parametrize("uid", [None, 7, "a\0", "\ud800", ["x"]])
def test_an_unusable_uid_counts_as_none(uid: Any) -> None:
    assert loaded(uid=uid).uid == ""


def test_retain_counts_also_beside_a_broken_field() -> None:
    request = loaded({"deletionPolicy": "Retain"})
    assert request.spec is None
    assert request.retain


@pytest.mark.parametrize(("table", "kept"), [("a.b.c", "a.b.c"), ("", ""), ("x\0", None), ("\ud800", None), (7, None)])
def test_the_table_as_written_is_kept_also_when_it_cannot_be_one(table: Any, kept: str | None) -> None:
    assert loaded(spec_with(table=table)).table == kept


@pytest.mark.parametrize(
    ("table", "relation"), [("students", "school.students"), ("public.students",) * 2, ("a.b.c", None)]
)
def test_a_table_is_one_relation_whatever_its_spelling(table: str, relation: str | None) -> None:
    """What an older status lists without a schema, too, is in the schema of PSQL_SCHEMA."""
    body = payload(resource(spec_with(table=table), {"tables": [table], "observedTable": table}))
    request = load_request(body, schema_of=lambda _database: "school")
    assert (request.table, request.relation, request.status.observed_table) == (table, relation, table)
    assert request.status.tables == ((relation,) if relation else ())
    assert relation is None or (request.spec is not None and request.spec.table == relation)


STATUSES: list[tuple[str, Any, PriorStatus]] = [
    ("absent", ABSENT, PriorStatus()),
    ("null", None, PriorStatus()),
    ("a text", "Ready", PriorStatus()),
    ("empty", {}, PriorStatus()),
    ("tables is a text", {"tables": "students"}, PriorStatus()),
    ("tables of foreign shapes", {"tables": [None, 7, ["a"], {"b": 1}, "a.b.c", "pg_catalog.pg_class", "ok"]},
     PriorStatus(tables=("public.ok",))),
    ("a table twice, in both spellings", {"tables": ["a", "s.b", "public.a"]}, PriorStatus(("public.a", "s.b"))),
    ("observedTable is a number", {"observedTable": 7}, PriorStatus()),
    ("observedTable is no table", {"observedTable": "a.b.c"}, PriorStatus(observed_table="a.b.c")),
    ("conditions is an object", {"conditions": {"type": "Ready"}}, PriorStatus()),
    ("conditions of foreign shapes", {"conditions": [None, "Ready", {"type": 7}, {"type": ["Ready"]}]}, PriorStatus()),
]  # fmt: skip


@pytest.mark.parametrize(("status", "prior"), [case[1:] for case in STATUSES], ids=[case[0] for case in STATUSES])
def test_status(status: Any, prior: PriorStatus) -> None:
    assert loaded(status=status).status == prior


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "true"},
        {"status": None},
        {"reason": ""},
        {"reason": "Row Synced"},
        {"reason": "_Row"},
        {"reason": 7},
        {"message": None},
        {"message": "\0"},
        {"lastTransitionTime": 7},
        {"lastTransitionTime": "yesterday"},
        {"lastTransitionTime": THEN + "\n"},
    ],
)
def test_a_condition_of_a_foreign_shape_counts_as_not_there(changes: dict[str, Any]) -> None:
    assert loaded(status=recorded("students", ready=condition(**changes))).status.ready is None


def test_a_sound_condition_is_kept() -> None:
    ready = loaded(status=recorded("students", ready=condition(observedGeneration="x"))).status.ready
    assert ready is not None
    assert (ready.status, ready.reason, ready.last_transition_time) == ("True", "RowSynced", THEN)
    assert ready.observed_generation is None


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    "parent", "object", "metadata", "spec", "status", "namespace", "name", "tables", "conditions", "type", "reason",
    "table", "age", "country", "annotations", "finalizers", "generation", "uid", "observedTable", "deletionTimestamp",
)  # fmt: skip
SHAPED: st.SearchStrategy[Any] = st.recursive(
    JSON | st.sampled_from(("Ready", "True", "students", THEN)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6),
    max_leaves=20,
)


@settings(max_examples=80)
@given(body=SHAPED, finalizing=st.booleans())
def test_any_json_becomes_a_request_or_invalid_request(body: Any, finalizing: bool) -> None:
    try:
        request = load_request(body, finalizing=finalizing)
    except InvalidRequest:
        return
    assert (request.spec is None) == (request.finalizing or bool(request.problem))
    assert not (request.finalizing and request.problem)


@settings(max_examples=100)
@given(field=st.sampled_from(("spec", "status", "metadata")), key=st.sampled_from(FIELDS), value=SHAPED)
def test_any_json_inside_a_resource_with_identity_becomes_a_request(field: str, key: str, value: Any) -> None:
    found = resource(status={})
    if key in ("namespace", "name") and field == "metadata":
        return
    found[field] = {**found[field], key: value}
    request = load_request(payload(found))
    assert request.id == "default/sample"
    assert (request.spec is None) == (request.finalizing or bool(request.problem))
    assert all(is_table(table) for table in request.status.tables)


@given(st.text(st.characters()))
def test_text_is_what_postgresql_can_store(value: str) -> None:
    try:
        storable = b"\0" not in json.loads(json.dumps(value)).encode()
    except UnicodeEncodeError:
        storable = False
    assert is_text(value) is storable
