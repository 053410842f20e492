"""The hooks over real HTTP: curl, the server's own processes and a real PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.curl import Answer, call_hook, check_problem, curl
from support.answers import decode_answer
from support.command import run_here
from support.payloads import DELETED, payload, resource
from support.postgres import Database
from support.server import ServerProcess, running_server
from support.spec_cases import spec_with
from support.waiting import wait_until

TOKENS = ("first-token", "second-token")
BEARER = ("--header", f"Authorization: Bearer {TOKENS[0]}")
RULES = 'rules:\n- {namespaces: ["team-*"], tables: ["team_*"]}\n- {namespaces: [default], tables: ["*"]}\n'


class Site:
    """A server with tokens and a table policy, on a database of its own."""

    def __init__(self, server: ServerProcess, database: Database, tokens: Path, policy: Path) -> None:
        self.server, self.database, self.tokens, self.policy = server, database, tokens, policy

    def call(self, hook: str, found: dict[str, Any], controller: str = "composite", **options: Any) -> dict[str, Any]:
        """Call a hook with a token."""
        return call_hook(self.server.url, hook, payload(found, controller, **options), *BEARER)

    def change(self, file: Path, text: str, said: str) -> None:
        """Replace a file, and call a hook until the log says what the server thinks of the change."""
        before = self.server.logs.count(said)
        following = file.with_suffix(".next")
        following.write_text(text)
        following.replace(file)
        headers = {"Authorization": f"Bearer {TOKENS[0]}"}
        wait_until(
            lambda: (
                self.server.post("sync", payload(resource()), headers=headers) is not None
                and self.server.logs.count(said) == before + 1
            ),
            said,
        )

    def post(self, *arguments: str, hook: str = "sync") -> Answer:
        """Call a hook with a sound request and with what the arguments say."""
        return curl(f"{self.server.url}/{hook}", *arguments, data=json.dumps(payload(resource())).encode())


@pytest.fixture(scope="module")
def site(shared_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run one server for the whole module; at its end the log must not tell of any failure."""
    folder = tmp_path_factory.mktemp("site")
    tokens, policy = folder / "tokens", folder / "policy.yaml"
    tokens.write_text("# a comment\n\n" + "\n".join(TOKENS) + "\n")
    policy.write_text(RULES)
    shared_database.create_table("pupils")
    variables: dict[str, Any] = {
        "HOOK_TOKENS_FILE": str(tokens),
        "HOOK_TABLE_POLICY_FILE": str(policy),
        "LOG_LEVEL": "DEBUG",
    }
    with running_server(shared_database, **variables) as server:
        yield Site(server, shared_database, tokens, policy)
        for secret in (*TOKENS, '"level": "ERROR"', "Traceback", "canada"):
            assert secret not in server.logs, secret


def ready_of(answer: dict[str, Any]) -> tuple[str, str]:
    found = next(one for one in answer["status"]["conditions"] if one["type"] == "Ready")
    return found["status"], found["reason"]


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("controller", ["composite", "decorator"])
def test_the_life_of_a_row(site: Site, controller: str, version: str) -> None:
    name = f"{controller}-{version}"
    key = f"default/{name}"
    status: Any = None

    def sync(spec: dict[str, Any], hook: str = "sync", **metadata: Any) -> dict[str, Any]:
        found = resource(spec, status, controller=controller, name=name, **metadata)
        return site.call(hook, found, controller, version=version, finalizing=hook == "finalize")

    def rows(table: str = "students") -> list[tuple[Any, ...]]:
        return [row[1:] for row in site.database.rows(table) if row[0] == key]

    answer = sync(spec_with())
    status = answer["status"]
    assert (ready_of(answer), rows()) == (("True", "RowSynced"), [("alex", 23, "canada")])
    assert sync(spec_with())["status"] == status
    sync(spec_with(age=24), generation=2)
    assert rows() == [("alex", 24, "canada")]
    site.database.query("DELETE FROM students WHERE id = %s", key)
    sync(spec_with())
    assert rows() == [("alex", 23, "canada")]
    answer = sync(spec_with(table="nowhere"))
    assert (ready_of(answer), rows()) == (("False", "TableNotFound"), [("alex", 23, "canada")])
    status = answer["status"]
    answer = sync(spec_with(table="pupils"))
    assert (answer["status"]["tables"], rows(), rows("pupils")) == (["public.pupils"], [], [("alex", 23, "canada")])
    status = answer["status"]
    for _ in range(2):
        answer = sync(spec_with(table="pupils"), "finalize", **DELETED)
        assert (answer["finalized"], answer["status"], rows("pupils")) == (True, status, [])


def test_the_same_state_gets_the_same_status_to_the_byte(site: Site) -> None:
    first = site.call("sync", resource(name="same"))["status"]
    body = json.dumps(payload(resource(status=first, name="same"))).encode()
    answers = [curl(f"{site.server.url}/sync", *BEARER, data=body).body for _ in range(2)]
    statuses = {json.dumps(decode_answer(answer, "composite")["status"]) for answer in answers}
    assert statuses == {json.dumps(first)}


def test_a_path_that_names_a_hook_in_another_way_is_the_hook_s(site: Site) -> None:
    assert ready_of(site.call("/sync", resource(name="slashes"))) == ("True", "RowSynced")
    check_problem(site.post(hook="/sync"), 401)


def test_sync_of_a_resource_that_is_being_deleted_does_not_write(site: Site) -> None:
    answer = site.call("sync", resource(name="going", **DELETED))
    assert answer["finalized"]
    assert not [row for row in site.database.rows() if row[0] == "default/going"]


def test_the_log_claims_nothing_of_a_paused_resource_s_row(site: Site) -> None:
    before = len(site.server.logs)
    site.call("sync", resource(name="unread", annotations={"demo.yash.com/paused": "true"}))
    [line] = [line for line in site.server.logs[before:].splitlines() if '"unread"' in line]
    assert "nothing was written" in line
    assert "matches the spec" not in line


def test_a_paused_resource_is_left_alone_until_it_is_deleted(site: Site) -> None:
    status = site.call("sync", resource(name="paused"))["status"]
    paused = {"demo.yash.com/paused": "true"}
    answer = site.call("sync", resource(spec_with(age=99), status, name="paused", annotations=paused, generation=2))
    ready, reconciling, pause = answer["status"]["conditions"]
    assert ready == status["conditions"][0]
    assert (reconciling["type"], reconciling["reason"]) == ("Reconciling", "Paused")
    assert (pause["type"], pause["status"]) == ("Paused", "True")
    assert ("default/paused", "alex", 23, "canada") in site.database.rows()
    assert b'reason="Paused"' in curl(f"{site.server.url}/metrics").body
    doomed = resource(spec_with(age=99), answer["status"], name="paused", annotations=paused, **DELETED)
    assert site.call("finalize", doomed)["finalized"]
    assert not [row for row in site.database.rows() if row[0] == "default/paused"]


@pytest.mark.parametrize("path", ["healthz", "readyz"])
def test_probes_need_no_token(site: Site, path: str) -> None:
    answer = curl(f"{site.server.url}/{path}")
    assert (answer.status, answer.body) == (200, b"ok\n")


def test_metrics_need_no_token_unless_configured(site: Site) -> None:
    answer = curl(f"{site.server.url}/metrics")
    assert answer.status == 200
    assert b"postgres_writer_hook_requests_total" in answer.body


# What is no hook request


@pytest.mark.parametrize("path", ["", "nope", "sync/", "sync/x", "SYNC", "static/x", "sync%00", "%2e%2e/etc/passwd"])
def test_other_paths_are_not_found(site: Site, path: str) -> None:
    check_problem(curl(f"{site.server.url}/{path}", data=b"{}"), 404)


@pytest.mark.parametrize(
    "headers",
    [
        ("X-Forwarded-Proto: https", "X-Forwarded-Ssl: off"),
        ("Script-Name: /elsewhere",),
        ("SCRIPT_NAME: /elsewhere",),
        ("PATH_INFO: /elsewhere",),
        ("Host: elsewhere.example:99",),
    ],
    ids=lambda headers: headers[0],
)
def test_no_header_leads_a_request_elsewhere(site: Site, headers: tuple[str, ...]) -> None:
    """A call from the server's own machine, too, is no proxy's: gunicorn believes those by default."""
    options = [option for header in headers for option in ("--header", header)]
    assert site.post(*BEARER, *options).status == 200


@pytest.mark.parametrize("hook", ["sync", "finalize"])
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_other_methods_are_not_allowed(site: Site, hook: str, method: str) -> None:
    answer = curl(f"{site.server.url}/{hook}", "--request", method, *BEARER)
    check_problem(answer, 405)
    assert "POST" in answer.headers["allow"]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {TOKENS[0]}x",
        f"Bearer {TOKENS[0][:-1]}",
        f"Bearer {TOKENS[0]},{TOKENS[1]}",
        "Bearer # a comment",
        f"Basic {TOKENS[0]}",
        TOKENS[0],
        "Bearer \u00e4\u00f6",
    ],
)
@pytest.mark.parametrize("hook", ["sync", "finalize"])
def test_without_a_token_nothing_is_done(site: Site, hook: str, header: str) -> None:
    before = site.database.rows()
    answer = site.post("--header", f"Authorization: {header}".strip(), hook=hook)
    check_problem(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert site.database.rows() == before


@pytest.mark.parametrize("header", [*(f"Bearer {token}" for token in TOKENS), f"bearer {TOKENS[1]}"])
def test_every_token_of_the_file_is_valid(site: Site, header: str) -> None:
    assert site.post("--header", f"Authorization: {header}").status == 200


def test_the_client_sends_the_first_token_of_a_file(site: Site, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("wrong\n")
    given = json.dumps(payload(resource()))
    command = ["sync", "-", "--force", "--url", site.server.url]
    for arguments in ([], ["--token-file", str(tmp_path / "wrong")]):
        ended = run_here(*command, *arguments, given=given)
        assert (ended.returncode, "HTTP401" in ended.stdout) == (1, True)
    assert run_here(*command, "--token-file", str(site.tokens), given=given).returncode == 0


def test_every_answer_of_a_hook_has_a_request_id_of_its_own(site: Site) -> None:
    answers = [site.post(*BEARER), site.post(*BEARER), site.post(), curl(f"{site.server.url}/sync", *BEARER, data=b"")]
    assert [answer.status for answer in answers] == [200, 200, 401, 400]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 4
    assert answers[0].headers["x-request-id"] in site.server.logs


# Files that change while the server runs


def test_tokens_are_rotated_without_a_restart(site: Site) -> None:
    def status(token: str) -> int:
        return site.post("--header", f"Authorization: Bearer {token}").status

    site.change(site.tokens, f"{TOKENS[0]}\nthird-token\n", "Reloaded the list of tokens.")
    assert status("third-token") == status(TOKENS[0]) == 200
    assert status(TOKENS[1]) == 401
    site.change(site.tokens, "# nothing left\n", "Could not reload the list of tokens")
    assert status(TOKENS[0]) == 200, "an unusable file must leave the previous one in use"
    site.change(site.tokens, "\n".join(TOKENS), "Reloaded the list of tokens.")
    assert status(TOKENS[1]) == 200


def test_the_table_policy_changes_without_a_restart(site: Site) -> None:
    allowed, refused = ("True", "RowSynced"), ("False", "TableNotAllowed")
    site.database.create_table("team_a")

    def ready(table: str = "team_a", namespace: str = "team-a") -> tuple[str, str]:
        return ready_of(site.call("sync", resource(spec_with(table=table), namespace=namespace)))

    assert (ready(), ready("students"), ready(namespace="other")) == (allowed, refused, refused)
    site.change(site.policy, RULES.replace('"team_*"', "students"), "Reloaded the table policy.")
    assert (ready(), ready("students")) == (refused, allowed)
    site.change(site.policy, "rules: broken", "Could not reload the table policy")
    assert ready("students") == allowed, "an unusable file must leave the previous one in use"
    site.change(site.policy, RULES, "Reloaded the table policy.")
    assert ready() == allowed
