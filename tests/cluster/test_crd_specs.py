"""The API server accepts and refuses exactly the specs of the shared table, and stores the accepted ones unchanged."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from postgres_writer.core.row import GROUP, KINDS, POSTGRES_WRITER, Kind
from support.spec_cases import INVALID_SPECS, VALID_SPECS, WIRE_ONLY, SpecCase, spec_with

if TYPE_CHECKING:
    from support.apiserver import ApiServer

KNOWN = POSTGRES_WRITER.fields.keys()
_numbers = count(1)


@pytest.fixture(scope="module")
def home(cluster: ApiServer) -> str:
    """Make one namespace for all cases: each has a name of its own in it."""
    cluster.kubectl("create", "namespace", "specs")
    return "specs"


def stored_spec(cluster: ApiServer, namespace: str, name: str) -> dict[str, Any]:
    """Return the spec as it is read back."""
    found = cluster.kubectl("get", "pgw", name, "--namespace", namespace, "--output=json")
    spec: dict[str, Any] = json.loads(found.stdout)["spec"]
    return spec


@pytest.mark.parametrize("case", VALID_SPECS, ids=lambda case: case.id)
def test_valid_spec_is_stored_as_written(cluster: ApiServer, home: str, case: SpecCase) -> None:
    name = f"case-{next(_numbers)}"
    cluster.kubectl("create", "--validate=ignore", "--filename=-", input=json.dumps(case.manifest(name, home)))
    known = {field: value for field, value in case.spec.items() if field in KNOWN}
    assert stored_spec(cluster, home, name) == {"deletionPolicy": "Delete", **known}


@pytest.mark.parametrize("case", INVALID_SPECS, ids=lambda case: case.id)
def test_invalid_spec_is_refused_by_the_name_of_its_field(cluster: ApiServer, home: str, case: SpecCase) -> None:
    name = f"case-{next(_numbers)}"
    manifest = json.dumps(case.manifest(name, home))
    done = cluster.kubectl("create", "--validate=ignore", "--filename=-", input=manifest, check=False)
    assert done.returncode != 0, done.stdout
    assert f'"{name}" is invalid' in done.stderr
    assert ("spec: " if case.field == "spec" else f"spec.{case.field}: ") in done.stderr
    assert len(done.stderr) < 4000, "a refusal must not repeat a megabyte"
    assert "NotFound" in cluster.kubectl("get", "pgw", name, "--namespace", home, check=False).stderr


ALLOWED = "; write table or schema.table, each of at most 63 letters"
WHY: dict[str, str] = {
    "my-table": "has a character that is not allowed",
    '" students"': "has a character that is not allowed",
    "'\"Students\"'": "has a character that is not allowed",
    '"a\\nb.c"': "has a character that is not allowed",
    "db.public.students": "has more than one dot",
    '""': "has an empty name",
    "public.": "has an empty name",
    "public.2024_students": "has a name that starts with a digit or a dollar sign",
    "t" * 64: "has a name of more than 63 characters",
    "pg_catalog.x": "cannot name a table in a system schema",
}
"""What a person writes as spec.table, in YAML, and what the refusal says of it."""


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_refused_table_is_explained_in_one_sentence(cluster: ApiServer, home: str, kind: Kind) -> None:
    head = f"apiVersion: {GROUP}/{kind.version}\nkind: {kind.name}\nmetadata: {{name: explained}}\nspec:"
    rest = "" if kind.fixed is None else ", name: alex, age: 23, country: canada"
    for written, why in WHY.items():
        manifest = f"{head} {{table: {written}{rest}}}\n"
        done = cluster.kubectl("create", "--namespace", home, "--filename=-", input=manifest, check=False)
        allowed = "; write SCHEMA.pg_NAME" if written == "pg_catalog.x" else ALLOWED
        assert f"spec.table {why}" in done.stderr, written
        assert allowed in done.stderr
        assert done.stderr.count("spec.table:") == 1, "there is one complaint"
        assert "^[" not in done.stderr


STORED_INSTEAD: dict[str, dict[str, Any]] = {
    "name: a lone high surrogate": spec_with(name="al\ufffdex"),
    "name: a lone low surrogate": spec_with(name="al\ufffdex"),
    "country: a lone high surrogate": spec_with(country="\ufffd"),
    "age: a whole number written as a fraction": spec_with(),
    "deletionPolicy null is the default": spec_with(),
}
"""What the API server makes of the specs that the hook can only get from another client."""


@pytest.mark.parametrize("case", WIRE_ONLY, ids=lambda case: case.id)
def test_no_reader_sees_what_only_the_wire_can_carry(cluster: ApiServer, home: str, case: SpecCase) -> None:
    name = f"case-{next(_numbers)}"
    path = f"/apis/demo.yash.com/v1/namespaces/{home}/postgreswriters"
    request = json.dumps(case.manifest(name, home))
    done = cluster.kubectl("create", "--raw", path, "--filename=-", input=request, check=False)
    if case.sentence not in STORED_INSTEAD:
        assert done.returncode != 0
        return
    assert done.returncode == 0, done.stderr
    found = stored_spec(cluster, home, name)
    assert found == {"deletionPolicy": "Delete", **STORED_INSTEAD[case.sentence]}
    assert isinstance(found["age"], int)


@pytest.mark.parametrize(
    ("mode", "complaint"),
    [((), 'unknown field "spec.nickname"'), (("--server-side",), ".spec.nickname: field not declared in schema")],
    ids=["client-side", "server-side"],
)
def test_unknown_field_is_named_to_a_strict_client(
    cluster: ApiServer, namespace: str, mode: tuple[str, ...], complaint: str
) -> None:
    manifest = json.dumps(SpecCase("", spec_with(nickname="al")).manifest(namespace=namespace))
    done = cluster.kubectl("apply", *mode, "--validate=strict", "--filename=-", input=manifest, check=False)
    assert done.returncode != 0
    assert complaint in done.stderr


@pytest.mark.parametrize("mode", [(), ("--server-side",)], ids=["client-side", "server-side"])
def test_default_survives_a_second_apply(cluster: ApiServer, namespace: str, mode: tuple[str, ...]) -> None:
    manifest = json.dumps(SpecCase("", spec_with()).manifest(namespace=namespace))
    apply = ("apply", *mode, "--filename=-", "--output=json")
    first, second, third = (json.loads(cluster.kubectl(*apply, input=manifest).stdout) for _ in range(3))
    assert first["spec"]["deletionPolicy"] == "Delete"
    assert first["spec"] == second["spec"]
    assert first["metadata"]["generation"] == third["metadata"]["generation"] == 1
    # The API server drops the status of a create and fills its defaults in when it reads the object; server-side apply
    # stores them with its next write, once, unless the hook server's status was faster.
    assert second["metadata"]["resourceVersion"] == third["metadata"]["resourceVersion"]
