"""The chart's value `databases` makes what the component databases and an overlay with the recipe's files make."""

from __future__ import annotations

import base64
import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from cluster.mounted import of_audit, of_server, sources
from postgres_writer.config.settings import DatabaseConfig
from postgres_writer.config.variables import settings_of
from support.apiserver import ApiServer
from support.helm import CHART, Helm
from support.manifests import K8S, Manifest, build, by_name, overlay, pick

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.usefixtures("helm_programs")
EXAMPLE = (K8S / "overlays" / "example" / "databases.yaml").read_text()
COMPONENTS = ["audit", "tls", "early-finalizer"]
INLINE = {"host": "db.example.com", "port": 5432, "dbname": "app", "user": "writer", "password": "x"}
KEYS = {name.removeprefix("PSQL_").lower() for name in (each.name for each in settings_of(DatabaseConfig).values())}
FILES = {"ca.crt", "tls.crt", "tls.key"}
REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("default", {"default": {"existingSecret": "pg"}}),
    ("Archive", {"Archive": {"existingSecret": "pg"}}),
    ("archive-", {"archive-": {"existingSecret": "pg"}}),
    ("a" * 64, {"a" * 64: {"existingSecret": "pg"}}),
    ("ssl_mode", {"archive": {"existingSecret": "pg", "ssl_mode": "require"}}),
    ("archive", {"archive": {}}),
    ("archive", {"archive": None}),
    ("archive", {"archive": "pg"}),
    ("existingSecret", {"archive": {"existingSecret": ""}}),
    ("existingSecret", {"archive": {"existingSecret": "pg}, x: {"}}),
    ("password", {"archive": {**INLINE, "password": ""}}),
    ("archive", {"archive": {key: value for key, value in INLINE.items() if key != "dbname"}}),
    ("archive", {"archive": {key: value for key, value in INLINE.items() if key != "password"}}),
    ("archive", {"archive": {**INLINE, "password_file": "/token/password"}}),
    ("sslmode", {"archive": {**INLINE, "sslmode": ["require"]}}),
]


@pytest.fixture
def helm(tmp_path: Path) -> Helm:
    return Helm(4, tmp_path)


def of_kustomize(server: ApiServer, folder: Path, patch: Manifest) -> list[Manifest]:
    """Return what an overlay with these sources makes, the component databases last, as the chart has it."""
    added = {"transformers": ["../../components/databases/audit"], "patches": [{"path": "databases.yaml"}]}
    overlay(folder, [*COMPONENTS, "databases"], example=yaml.safe_dump(added))
    (folder / "databases.yaml").write_text(yaml.safe_dump(patch))
    return build(server, folder)


def ordered(manifests: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    """Return manifests by kind and name; the order of a source's items means nothing."""
    for pod in (of_server(manifests), of_audit(manifests)):
        for source in sources(pod):
            source["secret"]["items"].sort(key=lambda item: item["path"])
    return by_name(manifests)


def listed(patch: Manifest) -> list[dict[str, Any]]:
    """Return the Secrets of the example's sources."""
    volume = patch["spec"]["template"]["spec"]["volumes"][0]
    return [source["secret"] for source in volume["projected"]["sources"]]


def named(source: dict[str, Any]) -> str:
    """Return the name of a source's database."""
    name: str = source["items"][0]["path"].split("/")[0]
    return name


def test_existing_secrets_are_mounted_with_all_keys_that_the_server_knows(
    kustomize: ApiServer, helms: list[Helm], tmp_path: Path
) -> None:
    patch = yaml.safe_load(EXAMPLE)
    databases = {named(source): {"existingSecret": source["name"]} for source in listed(patch)}
    assert databases.keys() == {"archive", "reports"}
    for source in listed(patch):
        keys = {item["key"] for item in source["items"]}
        assert keys < KEYS
        name = named(source)
        source["items"] += [{"key": key, "path": f"{name}/{key}"} for key in (KEYS | FILES) - keys]
    expected = ordered(of_kustomize(kustomize, tmp_path / "overlay", patch))
    for helm in helms:
        made = helm.template(components=COMPONENTS, databases=databases, namespace={"create": True})
        assert ordered(made) == expected


def test_databases_of_the_values_are_secrets_with_the_keys_that_are_mounted(
    kustomize: ApiServer, helms: list[Helm], tmp_path: Path
) -> None:
    patch = yaml.safe_load(EXAMPLE)
    databases = {}
    for source in listed(patch):
        databases[named(source)] = {item["key"]: 5432 if item["key"] == "port" else "x: y" for item in source["items"]}
        source["name"] = f"postgres-writer-database-{named(source)}"
    expected = ordered(of_kustomize(kustomize, tmp_path / "overlay", patch))
    for helm in helms:
        made = ordered(helm.template(components=COMPONENTS, databases=databases, namespace={"create": True}))
        for name, values in databases.items():
            held = made.pop(("Secret", f"postgres-writer-database-{name}"))["data"]
            assert {key: base64.b64decode(text).decode() for key, text in held.items()} == {**values, "port": "5432"}
        assert made == expected


def test_values_go_before_the_keys_of_an_existing_secret(helm: Helm) -> None:
    """The API server refuses two sources with one path."""
    own = {"dbname": "other", "prepared_statements": False, "ca.crt": "PEM"}
    databases = {"copy": {"existingSecret": "postgres-writer-database", **own}}
    made = helm.template(databases=databases, database={"existingSecret": "pg-app"})
    first, second = (source["secret"] for source in sources(of_server(made)))
    assert (first["name"], second["name"]) == ("postgres-writer-database", "postgres-writer-database-copy")
    assert {item["key"] for item in second["items"]} == own.keys()
    assert {item["key"] for item in first["items"]} == (KEYS | FILES) - own.keys()
    held = pick(made, "Secret", "postgres-writer-database-copy")["data"]
    assert base64.b64decode(held["prepared_statements"]) == b"false"


def test_a_change_of_a_database_replaces_no_pod_and_one_more_database_does(helm: Helm) -> None:
    def pods(**databases: Any) -> Any:
        return copy.deepcopy(pick(helm.template(databases=databases), "Deployment")["spec"]["template"])

    first = pods(archive=INLINE)
    assert pods(archive={**INLINE, "host": "db2", "password": "two"}) == first
    assert pods(archive=INLINE, reports={"existingSecret": "pg"}) != first


def test_sources_of_patches_are_added_to_those_of_the_values(helm: Helm) -> None:
    added = {"secret": {"name": "school-ca", "items": [{"key": "ca.crt", "path": "school/ca.crt"}]}}
    operation = {"op": "add", "path": "/spec/template/spec/volumes/0/projected/sources/-", "value": added}
    patches = [{"target": {"kind": "Deployment"}, "patch": json.dumps([operation])}]
    made = helm.template(databases={"school": INLINE}, patches=patches, components=["audit"])
    assert sources(of_server(made)) == [*sources(of_audit(made)), added]


def test_the_order_of_the_components_does_not_hide_the_databases_from_the_audit(helm: Helm) -> None:
    for components in (["databases", "audit"], ["audit"]):
        made = helm.template(databases={"school": INLINE}, components=components)
        (source,) = sources(of_audit(made))
        assert sources(of_server(made)) == [source]


def test_the_schema_knows_every_setting_of_a_database() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    (database,) = schema["properties"]["databases"]["patternProperties"].values()
    assert database["properties"].keys() == KEYS | FILES | {"existingSecret"}
    assert not database["additionalProperties"]


@pytest.mark.parametrize(("word", "databases"), REFUSED)
def test_what_names_no_database_is_refused(helms: list[Helm], word: str, databases: dict[str, Any]) -> None:
    for helm in helms:
        command = ("template", "postgres-writer", str(CHART), f"--values={helm.values(databases=databases)}")
        done = helm.run(*command, check=False)
        assert done.returncode == 1
        assert word in done.stderr
