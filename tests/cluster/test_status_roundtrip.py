"""What the hook server answers is a status that the real API server takes: nothing refused, nothing pruned.

A real hook server on a real PostgreSQL answers for objects as the API server hands them out, and its status goes
through the status subresource with strict field validation. Every reason of the condition Ready is produced.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pytest
from psycopg2 import sql

from cluster.round_trip import WRITTEN, RoundTrip, as_bytes, ready, write_statuses
from postgres_writer.core.plan import Outcome
from postgres_writer.core.request import load_request
from postgres_writer.core.response import build_response
from postgres_writer.deadlines import WEBHOOK_SECONDS
from postgres_writer.errors import InvalidSpec, Reason
from support.custom_resource import KIND, Resource
from support.payloads import payload
from support.ports import free_port
from support.postgres import Database
from support.server import ServerProcess, running_server
from support.spec_cases import INVALID_SPECS, SpecCase, spec_with

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.apiserver import ApiServer

FINALIZER = "metacontroller.io/compositecontroller-postgres-writer"
OTHER_FINALIZER = "example.com/somebody-else"
Judge = Callable[[Iterable[dict[str, Any]]], list[str]]
seen: set[Reason] = set()


@pytest.fixture(params=["composite", "decorator"])
def controller(request: pytest.FixtureRequest) -> str:
    """Play each kind of controller."""
    kind: str = request.param
    return kind


@pytest.fixture
def hooks(database: Database) -> Iterator[ServerProcess]:
    """Run a hook server on a database of the test's own."""
    with running_server(database) as server:
        yield server


@pytest.fixture
def stored(cluster: ApiServer, namespace: str) -> Resource:
    """Store the sample with Metacontroller's finalizer."""
    resource = Resource(cluster, namespace)
    resource.create(finalizers=[FINALIZER])
    return resource


@pytest.fixture
def trip(stored: Resource, hooks: ServerProcess) -> RoundTrip:
    """Join the sample and the hook server."""
    return RoundTrip(stored, hooks)


def expect(status: dict[str, Any], state: str, reason: Reason) -> None:
    assert ready(status) == (state, reason.value), status
    seen.add(reason)


def test_a_synced_row_and_the_second_sync_writes_nothing(
    stored: Resource, hooks: ServerProcess, database: Database, controller: str
) -> None:
    trip = RoundTrip(stored, hooks, controller)
    first = trip.sync()
    expect(first, "True", Reason.ROW_SYNCED)
    version = stored.get()["metadata"]["resourceVersion"]
    assert as_bytes(trip.sync()) == as_bytes(first)
    assert stored.get()["metadata"]["resourceVersion"] == version
    assert database.rows() == [(f"{stored.namespace}/sample", "alex", 23, "canada")]
    stored.kubectl("wait", "--for=condition=Ready", "--timeout=60s", f"{KIND}/sample")


def test_an_edited_table_moves_the_row_and_is_recorded(trip: RoundTrip, database: Database) -> None:
    database.create_table("pupils")
    trip.sync()
    trip.resource.patch_spec(table="pupils", age=24)
    status = trip.sync()
    assert (status["observedTable"], status["tables"], status["observedGeneration"]) == ("pupils", ["public.pupils"], 2)
    trip.resource.patch_spec(table="students")
    assert trip.sync()["observedTable"] == "students"


def test_a_missing_table(trip: RoundTrip) -> None:
    trip.sync()
    trip.resource.patch_spec(table="nowhere")
    status = trip.sync()
    expect(status, "False", Reason.TABLE_NOT_FOUND)
    assert set(status["tables"]) == {"public.students", "public.nowhere"}


def test_a_refused_row(trip: RoundTrip, database: Database) -> None:
    database.query("ALTER TABLE students ADD CHECK (age < 10)")
    expect(trip.sync(), "False", Reason.ROW_REJECTED)


def test_a_locked_table(trip: RoundTrip, database: Database) -> None:
    with database.connection() as other, other.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE students")
        expect(trip.sync(), "False", Reason.DATABASE_BUSY)


def test_a_role_without_a_grant(stored: Resource, database: Database) -> None:
    role, password = f"test_{secrets.token_hex(6)}", secrets.token_hex(16)
    names = {"role": sql.Identifier(role), "password": sql.Literal(password)}
    database.query(sql.SQL("CREATE ROLE {role} LOGIN PASSWORD {password}").format(**names))
    try:
        with running_server(database, PSQL_USER=role, PSQL_PASSWORD=password) as server:
            expect(RoundTrip(stored, server).sync(), "False", Reason.ACCESS_DENIED)
    finally:
        database.query(sql.SQL("DROP ROLE {role}").format(**names))


def test_a_database_that_is_not_there(stored: Resource, database: Database) -> None:
    with running_server(database, PSQL_HOST="127.0.0.1", PSQL_PORT=str(free_port())) as server:
        expect(RoundTrip(stored, server).sync(), "False", Reason.DATABASE_UNAVAILABLE)


def test_a_database_that_is_not_configured(trip: RoundTrip) -> None:
    # what lists no table can be in another database
    trip.resource.record("students")
    trip.resource.patch_spec(database="archive")
    status = trip.sync()
    expect(status, "False", Reason.DATABASE_NOT_CONFIGURED)
    assert status["tables"] == []


def test_a_request_that_waited_too_long(trip: RoundTrip) -> None:
    (worker,) = trip.hooks.workers()
    resume = threading.Timer(WEBHOOK_SECONDS, os.kill, (worker, signal.SIGCONT))

    def stop() -> None:
        os.kill(worker, signal.SIGSTOP)
        resume.start()

    # only now: the look at the API server before it takes seconds on a busy machine
    expect(trip.sync(before_the_call=stop), "False", Reason.REQUEST_EXPIRED)


def test_another_owner_of_a_status_is_refused(trip: RoundTrip, stored: Resource) -> None:
    """Owned as a whole, a status cannot be shared: a second manager that applies to it learns of the first."""
    status = trip.sync()
    manifest = {**stored.manifest(spec_with()), "status": {"id": "mine"}}
    del manifest["spec"]
    command = ("apply", "--server-side", "--subresource=status", "--field-manager=other", "--filename=-")
    refused = stored.kubectl(*command, input=json.dumps(manifest), check=False)
    assert "conflict" in refused.stderr
    assert stored.get()["status"] == status


def test_a_table_refused_by_policy_and_then_allowed(stored: Resource, database: Database, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text('rules: [{namespaces: ["*"], tables: [pupils]}]')
    with running_server(database, HOOK_TABLE_POLICY_FILE=str(policy)) as server:
        trip = RoundTrip(stored, server)
        status = trip.sync()
        expect(status, "False", Reason.TABLE_NOT_ALLOWED)
        assert (status["observedTable"], status["tables"]) == ("students", [])
        policy.write_text('rules: [{namespaces: ["*"], tables: [pupils, students]}]')
        end = time.monotonic() + 60
        while ready(status)[1] == Reason.TABLE_NOT_ALLOWED.value and time.monotonic() < end:
            status = trip.sync()  # the file is looked at again after a while
        expect(status, "False", Reason.TABLE_RECORDED)
        assert ready(trip.sync()) == ("True", "RowSynced")


def test_a_paused_resource(trip: RoundTrip) -> None:
    seen.add(Reason(ready(trip.resource.get()["status"])[1]))  # Pending, as it was born
    trip.resource.patch({"metadata": {"annotations": {"demo.yash.com/paused": "true"}}})
    assert [entry["type"] for entry in trip.sync()["conditions"]] == ["Ready", "Reconciling", "Paused"]
    trip.resource.patch({"metadata": {"annotations": {"demo.yash.com/paused": None}}})
    before = trip.sync()
    trip.resource.patch({"metadata": {"annotations": {"demo.yash.com/paused": "true"}}})
    paused = trip.sync()
    assert [entry["type"] for entry in paused["conditions"]] == ["Ready", "Paused"]
    assert paused["conditions"][0] == before["conditions"][0]


def test_a_delete_that_is_swallowed(trip: RoundTrip, database: Database) -> None:
    trip.sync()
    database.query(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER keep BEFORE DELETE ON students FOR EACH ROW EXECUTE FUNCTION keep()"
    )
    trip.resource.kubectl("delete", KIND, "sample", "--wait=false")
    expect(trip.finalize(), "False", Reason.DELETE_FAILED)


def test_a_deletion_that_another_finalizer_holds_up(trip: RoundTrip, database: Database) -> None:
    trip.resource.patch({"metadata": {"finalizers": [FINALIZER, OTHER_FINALIZER]}})
    trip.sync()
    trip.resource.kubectl("delete", KIND, "sample", "--wait=false")
    expect(trip.finalize(), "False", Reason.ROW_DELETED)
    assert database.rows() == []
    trip.resource.patch({"metadata": {"finalizers": [OTHER_FINALIZER]}})
    trip.resource.patch({"metadata": {"finalizers": None}})
    assert trip.resource.gone()


def test_a_deletion_with_the_last_finalizer_changes_no_status(trip: RoundTrip) -> None:
    before = trip.sync()
    trip.resource.kubectl("delete", KIND, "sample", "--wait=false")
    assert as_bytes(trip.finalize()) == as_bytes(before)


def test_a_resource_that_the_selector_no_longer_matches(trip: RoundTrip, database: Database) -> None:
    trip.sync()
    expect(trip.finalize(), "Unknown", Reason.UNMANAGED)
    assert len(database.rows()) == 1


def test_the_answers_for_all_broken_specs(stored: Resource, hooks: ServerProcess) -> None:
    """Such objects come from before the CRD had its limits; what is said about them must be storable."""
    valid = SpecCase("", spec_with())
    copies = [valid.manifest(f"broken-{number:03}", stored.namespace) for number in range(len(INVALID_SPECS))]
    stored.kubectl("create", "--filename=-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": copies}))
    found = json.loads(stored.kubectl("get", KIND, "--output=json").stdout)["items"]  # in the order of names
    found = [item for item in found if item["metadata"]["name"].startswith("broken-")]
    answered = []
    for item, case in zip(found, INVALID_SPECS, strict=True):
        broken = {**case.manifest(), "metadata": item["metadata"]}
        reply = hooks.post("sync", payload(broken))
        answered.append({**item, "status": reply.json()["status"]})
    written = write_statuses(stored, answered)
    assert [as_bytes(item["status"]) for item in written] == [as_bytes(item["status"]) for item in answered]
    for item in written:
        expect(item["status"], "False", Reason.INVALID_SPEC)


def test_an_unknown_field_of_a_status_would_be_noticed(stored: Resource) -> None:
    with pytest.raises(AssertionError, match=r'unknown field "(status\.)?result"'):
        write_statuses(stored, [{**stored.get(), "status": {"result": "success"}}])


WAIT = ("InProgress", "Progressing")
MEANT = {
    Reason.ROW_SYNCED: ("Current", "Healthy"),
    Reason.INVALID_SPEC: ("Failed", "Degraded"),
    Reason.TABLE_NOT_ALLOWED: ("Failed", "Degraded"),
    Reason.UNMANAGED: ("InProgress", "Suspended"),
}
"""What kstatus (Flux, Helm) and Argo CD are to make of a reason; of all others, that it is worth waiting."""


def meant(stored: dict[str, Any]) -> tuple[str, str]:
    """Return the verdicts that are meant for an object."""
    conditions = {entry["type"]: entry for entry in stored["status"]["conditions"]}
    verdict, health = MEANT.get(Reason(conditions["Ready"]["reason"]), WAIT)
    if "deletionTimestamp" in stored["metadata"]:
        return "Terminating", "Progressing"
    return "InProgress" if "Reconciling" in conditions else verdict, "Suspended" if "Paused" in conditions else health


def test_a_waiter_is_not_told_success_by_silence_or_an_old_status(
    stored: Resource, hooks: ServerProcess, kstatus: Judge, argo: Judge
) -> None:
    trip = RoundTrip(stored, hooks)
    pause = {"metadata": {"annotations": {"demo.yash.com/paused": "true"}}}
    resume = {"metadata": {"annotations": {"demo.yash.com/paused": None}}}
    born = stored.get()
    trip.sync()
    synced = stored.get()
    stored.patch(pause)
    trip.sync()
    paused = stored.get()
    stored.patch_spec(age=24)
    unseen = stored.get()
    trip.sync()
    # Metacontroller's composite sets this to the generation whatever the hook answers, so it proves nothing
    paused_and_edited = stored.get()
    assert paused_and_edited["status"]["observedGeneration"] == paused_and_edited["metadata"]["generation"]
    stored.patch(resume)
    trip.sync()
    resumed = stored.get()
    states = [born, synced, paused, unseen, paused_and_edited, resumed]
    waiting, current, held, healthy = "InProgress", "Current", "Suspended", "Healthy"
    assert kstatus(states) == [waiting, current, current, waiting, waiting, current]
    assert argo(states) == ["Progressing", healthy, held, held, held, healthy]
    assert argo([{**resumed, "metadata": {**resumed["metadata"], "generation": 99}}]) == ["Progressing"]
    assert argo([{**born, "status": None}]) == ["Progressing"]
    assert kstatus([{**born, "status": {}}]) == ["Current"], "kstatus has changed: are the CRD's defaults still needed?"


def test_a_broken_spec_that_is_edited_while_paused_is_worth_waiting_for(stored: Resource, kstatus: Judge) -> None:
    """Stalled speaks of the old spec then; kstatus takes the first of the two conditions that it finds."""
    broken = {**stored.get(), "spec": spec_with(age=-1)}
    first = load_request(payload(broken))
    answer = build_response(first, Outcome((), error=InvalidSpec(first.problem)), time.time(), 300)
    [failed] = write_statuses(stored, [{**stored.get(), "status": answer["status"]}])
    stored.patch({"metadata": {"annotations": {"demo.yash.com/paused": "true"}}})
    stored.patch_spec(age=24)
    again = build_response(load_request(payload(stored.get())), Outcome(()), time.time(), 300)
    [waiting] = write_statuses(stored, [{**stored.get(), "status": again["status"]}])
    assert [entry["type"] for entry in waiting["status"]["conditions"]] == ["Ready", "Reconciling", "Stalled", "Paused"]
    assert kstatus([failed, waiting]) == ["Failed", "InProgress"]


def test_flux_and_argo_cd_take_every_status_as_it_is_meant(kstatus: Judge, argo: Judge) -> None:
    """Runs after all others of this file, on what they stored."""
    found = list(zip(map(meant, WRITTEN), zip(kstatus(WRITTEN), argo(WRITTEN), strict=True), strict=True))
    assert [pair for pair in found if pair[0] != pair[1]] == []
    if len(seen) == len(Reason):
        assert {one for _, (one, _) in found} == {"InProgress", "Current", "Failed", "Terminating"}
        assert {other for _, (_, other) in found} == {"Progressing", "Healthy", "Degraded", "Suspended"}


def test_every_reason_was_seen() -> None:
    """Runs last in this file; without the others there is nothing to say."""
    if len(seen) < 2:
        pytest.skip("run the whole file")
    assert seen == set(Reason)
