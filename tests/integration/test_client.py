"""`postgres-writer sync` and `finalize` against a real server."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from postgres_writer import __version__
from postgres_writer.cli.client import finalizing, ready_condition, requests_of
from postgres_writer.cli.commands import COMMANDS
from postgres_writer.core.row import POSTGRES_ROW
from support.command import run_here
from support.payloads import payload, resource
from support.ports import free_port
from support.postgres import Database
from support.server import PROGRAM, ServerProcess, running_server
from support.spec_cases import ABSENT

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "k8s" / "samples" / "sample-student.yaml"
MANIFEST = """\
apiVersion: demo.yash.com/v1
kind: PostgresWriter
metadata: {name: %s, namespace: default}
spec: {table: %s, name: alex, age: 23, country: canada}
"""
ALEX = MANIFEST % ("sample-student", "students")


@pytest.fixture(scope="module")
def server(shared_database: Database) -> Iterator[ServerProcess]:
    """Run one server for the whole module."""
    with running_server(shared_database) as server:
        yield server


@pytest.fixture
def database(shared_database: Database) -> Database:
    """Empty the server's database."""
    shared_database.query("TRUNCATE students")
    return shared_database


class TestSync:
    """Manifests go in, kubectl's kind of table comes out."""

    def test_several_documents_become_rows_and_a_table(self, server: ServerProcess, database: Database) -> None:
        both = f"{ALEX}---\n{MANIFEST % ('other', 'students')}---\n"
        ended = run_here("sync", "-", "--url", server.url, given=both)
        assert (ended.returncode, ended.stderr) == (0, "")
        message = "The row in table public.students matches the spec."
        assert ended.stdout.splitlines() == [
            "NAMESPACE   NAME             TABLE      READY   REASON      MESSAGE",
            f"default     sample-student   students   True    RowSynced   {message}",
            f"default     other            students   True    RowSynced   {message}",
        ]
        assert [row[0] for row in database.rows()] == ["default/other", "default/sample-student"]

    def test_what_looks_like_a_date_is_a_text_as_for_kubectl(self, server: ServerProcess, database: Database) -> None:
        ended = run_here("sync", "-", "--url", server.url, given=ALEX.replace("alex", "2026-11-24"))
        assert (ended.returncode, ended.stderr) == (0, "")
        assert database.rows()[0][1] == "2026-11-24"

    def test_one_that_is_not_ready_makes_it_one(self, server: ServerProcess, database: Database) -> None:
        ended = run_here("sync", "-", "--url", server.url, given=f"{MANIFEST % ('x', 'nowhere')}---\n{ALEX}")
        assert ended.returncode == 1
        assert "TableNotFound" in ended.stdout
        assert len(database.rows()) == 1

    @pytest.mark.parametrize(("output", "load"), [("json", json.loads), ("yaml", yaml.safe_load)])
    @pytest.mark.parametrize("kind", ["composite", "decorator"])
    def test_a_whole_hook_request_is_sent_as_it_is(
        self, server: ServerProcess, tmp_path: Path, output: str, load: Callable[[str], Any], kind: str
    ) -> None:
        file = tmp_path / "request.json"
        file.write_text(json.dumps(payload(resource(), kind)))
        ended = run_here("sync", str(file), "--url", server.url, "-o", output, "--force")
        assert ended.returncode == 0
        answer = load(ended.stdout)
        assert ("children" if kind == "composite" else "attachments") in answer
        assert answer["status"]["tables"] == ["public.students"]

    @pytest.mark.parametrize("hook", ["sync", "finalize"])
    def test_a_request_without_objects_is_the_server_s_to_refuse(self, server: ServerProcess, hook: str) -> None:
        given = json.dumps({"parent": {"metadata": "text", "spec": "text"}})
        ended = run_here(hook, "-", "--url", server.url, given=given)
        assert (ended.returncode, ended.stderr) == (1, "")
        assert "HTTP400" in ended.stdout

    def test_a_row_of_any_columns_is_written_and_finalized_by_its_own_controller(
        self, server: ServerProcess, database: Database
    ) -> None:
        declared = resource(
            {"table": "students", "columns": [{"name": "age", "value": 23}]}, kind=POSTGRES_ROW, uid=ABSENT
        )
        both = f"{ALEX}---\n{json.dumps(declared)}"
        ended = run_here("sync", "-", "--url", server.url, given=both)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert database.rows() == [
            ("default/sample-student", "alex", 23, "canada"),
            ("row/default/sample", None, 23, None),
        ]
        names = [each["controller"]["metadata"]["name"] for each in requests_of(both, force=False)]
        assert names == ["postgres-writer", "postgres-writer-row"]
        [_, last] = [finalizing(each) for each in requests_of(both.replace('"finalizers"', '"was"'), force=False)]
        assert last["parent"]["metadata"]["finalizers"] == ["metacontroller.io/compositecontroller-postgres-writer-row"]
        assert run_here("finalize", "-", "--url", server.url, given=both).returncode == 0
        assert database.rows() == []

    def test_a_list_of_kubectl_is_taken_apart(self, server: ServerProcess, database: Database) -> None:
        listed = {"kind": "List", "items": [yaml.safe_load(ALEX), yaml.safe_load(MANIFEST % ("b", "students"))]}
        assert run_here("sync", "-", "--url", server.url, given=json.dumps(listed)).returncode == 0
        assert len(database.rows()) == 2


class TestFinalize:
    """The deletionTimestamp is added, and the row is deleted."""

    def test_the_row_goes_and_may_go_twice(self, server: ServerProcess, database: Database) -> None:
        run_here("sync", "-", "--url", server.url, given=ALEX)
        assert len(database.rows()) == 1
        for _ in range(2):
            ended = run_here("finalize", "-", "--url", server.url, "-o", "json", given=ALEX)
            assert (ended.returncode, json.loads(ended.stdout)["finalized"]) == (0, True)
            assert database.rows() == []

    def test_the_sample_is_released_without_waiting_for_another_finalizer(self, server: ServerProcess) -> None:
        ended = run_here("finalize", str(SAMPLE), "--url", server.url)
        assert ended.returncode == 0
        _, line = ended.stdout.splitlines()
        assert line.split()[:4] == ["default", "sample-student", "students", "Finalized"], line
        assert "finalizer" not in line

    @pytest.mark.parametrize("kind", ["composite", "decorator"])
    def test_controller_and_finalizer_are_those_of_the_manifests(self, kind: str) -> None:
        manifest = yaml.safe_load((ROOT / "metacontroller" / f"{kind}.yaml").read_text())
        # the composite controllers are a list, one for each kind
        [manifest, *_] = manifest.get("items", [manifest])
        [sample] = requests_of(SAMPLE.read_text(), force=False)
        assert sample["controller"]["metadata"]["name"] == manifest["metadata"]["name"]
        request = finalizing({**payload(resource(finalizers=ABSENT), kind), "controller": {}})
        [finalizer] = request["parent" if kind == "composite" else "object"]["metadata"]["finalizers"]
        assert finalizer == f"metacontroller.io/{kind}controller-{manifest['metadata']['name']}"

    def test_what_is_not_finalized_makes_it_one(self, server: ServerProcess, database: Database) -> None:
        run_here("sync", "-", "--url", server.url, given=ALEX)
        database.query("CREATE RULE keep AS ON DELETE TO students DO INSTEAD NOTHING")
        try:
            ended = run_here("finalize", "-", "--url", server.url, given=ALEX)
        finally:
            database.query("DROP RULE keep ON students")
        assert ended.returncode == 1
        assert "DeleteFailed" in ended.stdout


class TestRefused:
    """What cannot be sent ends with 2 and one sentence; nothing is sent."""

    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            ("", "no manifest"),
            ("a: [", "neither YAML nor JSON"),
            ("[" * 1000, "neither YAML nor JSON"),
            (ALEX.replace("alex", "!!timestamp 2026-13-01"), "neither YAML nor JSON"),
            (ALEX.replace("alex", ".nan"), "neither YAML nor JSON"),
            ("[1, 2]", "not an object"),
            ("{kind: List, items: 1}", "not an object"),
            ("kind: Pod", "of kind Pod"),
            ("{kind: PostgresRow, apiVersion: example.com/v1}", "not PostgresWriter or PostgresRow of demo.yash.com"),
            (ALEX.replace("metadata: {", "metadata: {uid: 5a1f, "), "--force"),
            (json.dumps(payload(resource())), "--force"),
        ],
        ids=[
            "empty",
            "no YAML",
            "too deep",
            "no month",
            "no JSON",
            "a list",
            "no list of items",
            "another kind",
            "another group",
            "from a cluster",
            "a request from a cluster",
        ],
    )
    def test_the_input(self, given: str, sentence: str) -> None:
        ended = run_here("sync", "-", "--url", "http://127.0.0.1:1", given=given)
        assert (ended.returncode, ended.stdout) == (2, "")
        [line] = ended.stderr.splitlines()
        assert sentence in line

    def test_a_file_that_is_not_there(self) -> None:
        ended = run_here("sync", "/no/such")
        assert (ended.returncode, "/no/such" in ended.stderr) == (2, True)

    def test_a_server_that_is_not_there_makes_it_one(self) -> None:
        ended = run_here("sync", "-", "--url", f"http://127.0.0.1:{free_port()}", given=ALEX)
        assert ended.returncode == 1
        assert "is it serving?" in ended.stderr

    @pytest.mark.parametrize("url", ["nonsense", "http://a..b/", "http://[::1", "http://x:99999", "ftp://x", ""])
    def test_what_is_no_url_of_a_server(self, url: str) -> None:
        ended = run_here("sync", "-", "--url", url, given=ALEX)
        assert (ended.returncode, ended.stderr.startswith("postgres-writer: --url must be")) == (2, True)

    @pytest.mark.parametrize("file", ["/nonexistent", "/", os.devnull, str(SAMPLE)])
    def test_what_is_no_file_of_certificates(self, file: str) -> None:
        ended = run_here("sync", "-", "--ca-file", file, given=ALEX)
        assert (ended.returncode, ended.stderr.startswith("postgres-writer: --ca-file ")) == (2, True)

    @pytest.mark.parametrize("conditions", [None, "Ready", {"type": "Ready"}, [7, None, {"type": ["Ready"]}]])
    def test_the_conditions_of_another_program_are_none(self, conditions: object) -> None:
        assert ready_condition({"conditions": conditions}) == ("", "", "")


class TestProgram:
    """The program itself."""

    def test_version(self) -> None:
        printed = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True)
        assert (printed.stdout, printed.stderr) == (f"postgres-writer {__version__}\n", "")

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_has_help_with_examples_and_exit_codes(self, command: str) -> None:
        ended = run_here(command, "--help")
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.startswith(f"Usage: postgres-writer {command} [OPTIONS]")
        assert re.search(rf"^examples?:\n  .*postgres-writer {command}", ended.stdout, re.MULTILINE)
        assert re.search(r"^exit codes: 0 ", ended.stdout, re.MULTILINE)
        assert ("For development" in ended.stdout) is (command in ("sync", "finalize"))

    @pytest.mark.parametrize("arguments", [[], ["nonsense"], ["sync"], ["serve", "--nonsense"]])
    def test_wrong_usage_ends_with_two_and_speaks_on_stderr(self, arguments: list[str]) -> None:
        ended = run_here(*arguments)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.startswith("Usage: postgres-writer")

    def test_a_shell_completes_with_what_click_prints(self) -> None:
        script = 'eval "$(_POSTGRES_WRITER_COMPLETE=bash_source "$0")"; COMP_WORDS=("$0" audit --all); COMP_CWORD=2'
        script += '; _postgres_writer_completion "$0"; echo "${COMPREPLY[@]}"'
        assert 'eval "$(_POSTGRES_WRITER_COMPLETE=bash_source postgres-writer)"' in run_here("--help").stdout
        offered = subprocess.run(["bash", "-c", script, PROGRAM], capture_output=True, text=True, check=True)
        assert (offered.stdout, offered.stderr) == ("--all-tables\n", "")
