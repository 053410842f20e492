"""Whatever is typed, and wherever the output goes: a documented exit code, and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from integration.audits import made, row
from postgres_writer.cli.commands import COMMANDS
from support.command import run_here
from support.postgres import scrubbed_environment
from support.server import PROGRAM, ServerProcess, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.postgres import Database

MANIFEST = json.dumps({**made("sample"), "status": None})
LISTED = json.dumps({"kind": "List", "items": [made("sample")]})
INPUTS = {
    "a manifest": MANIFEST,
    "a list": LISTED,
    "nothing": "",
    "brackets": "[" * 900,
    "many brackets": '{"kind": "List", "items": ' + "[" * 100_000,
    "no text": "\x00\ufeff",
    "an alias in itself": "a: &a [*a]",
}
OPTIONS = (
    "--help --embedded --data-dir --url --token-file --ca-file --output -o --force --context --namespace -n --table"
)
OPTIONS += " --all-tables --confirm-after --timeout --service-account --result-config-map --repair --prune"
WORDS = (
    "- -- --yes --nonsense nan inf -1 1e400 ٣ 0 json table log yaml default/sample no/such é\x1b[ \udcff http://a..b/"
)
WORDS += " http://[ nonsense http://127.0.0.1:1 http://* MANIFEST BINARY FOLDER /no/such"
VARIABLES = "PSQL_PORT PSQL_USER PSQL_CONNECT_TIMEOUT PSQL_PASSWORD_FILE HOOK_TOKENS_FILE LOG_LEVEL HOOK_HOST PGOPTIONS"

PATIENT = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], print_blob=True
)


@pytest.fixture(scope="module")
def site(shared_database: Database) -> Iterator[tuple[Database, ServerProcess]]:
    """Run a server on a database with a row that has no resource."""
    row(shared_database, "default/left")
    with running_server(shared_database, HOOK_WORKERS="1") as server:
        yield shared_database, server


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Make files and a folder that arguments may name."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "manifest").write_text(MANIFEST)
    (folder / "binary").write_bytes(bytes(range(256)))
    return {"FOLDER": str(folder), "MANIFEST": str(folder / "manifest"), "BINARY": str(folder / "binary")}


@dataclass(frozen=True)
class Typed:
    """A command with its arguments, more variables, and the name of what is on its standard input."""

    command: str
    arguments: list[str]
    environ: dict[str, str] = field(default_factory=dict)
    given: str = "a list"


WORD = st.sampled_from(["", *OPTIONS.split(), *WORDS.split()]) | st.text(st.characters(exclude_characters="\0"))
TYPED = st.builds(
    Typed,
    # demo takes no arguments, and has a test of its own
    st.sampled_from([name for name in COMMANDS if name != "demo"]),
    st.lists(WORD, max_size=6),
    st.dictionaries(st.sampled_from(VARIABLES.split()), st.sampled_from(WORDS.split()), max_size=2),
    st.sampled_from(list(INPUTS)),
)


@settings(PATIENT, max_examples=60)
@given(TYPED)
@example(Typed("audit", ["-"], given="many brackets"))
@example(Typed("audit", ["-", "--timeout", "inf"]))
@example(Typed("audit", ["-", "--timeout", "nan"]))
@example(Typed("sync", ["MANIFEST", "--ca-file", "/nonexistent"]))
@example(Typed("sync", ["MANIFEST", "--url", "http://a..b/"]))
@example(Typed("sync", ["MANIFEST", "--token-file", "BINARY"]))
@example(Typed("finalize", ["MANIFEST", "--url", "nonsense"]))
@example(Typed("serve", [], {"PSQL_CONNECT_TIMEOUT": "٣"}))
def test_any_arguments_end_in_a_sentence(
    site: tuple[Database, ServerProcess], files: dict[str, str], typed: Typed
) -> None:
    # serve ends at its address at the latest, which is not of this machine
    known = {
        **site[0].environ,
        "HOOK_HOST": "192.0.2.1",
        "HOOK_PORT": str(site[1].port),
        "PATH": "",
        "HOME": "/no/such",
    }
    arguments = [files.get(word, word) for word in typed.arguments]
    done = run_here(typed.command, *arguments, given=INPUTS[typed.given], environ={**known, **typed.environ})
    assert done.returncode in {0, 1, 2}
    assert "Traceback" not in done.stdout + done.stderr
    assert "report this as a defect" not in done.stderr
    assert done.stderr or done.returncode != 2


STREAMS = {"open": "", "closed": "{number}>&-", "full": "{number}>/dev/full", "without a reader": "{number}>&7"}
TERMINALS = [{}, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}, {"PYTHONUNBUFFERED": "1"}, {"LC_ALL": "POSIX"}]
SYNC = "sync MANIFEST --url URL"
AUDIT = "audit - -o log"
LINES = [
    "--version",
    "--help",
    SYNC,
    # what reads its standard input, where that is closed
    "sync - --url URL -o json",
    AUDIT,
    "serve",
    f"{SYNC} -o yaml",
    "finalize MANIFEST --url http://127.0.0.1:1",
    "nonsénse",
    "audit --prune default/left",
]


@dataclass(frozen=True)
class Streams:
    """What the standard streams of a command are."""

    stdin: str = "open"
    stdout: str = "open"
    stderr: str = "open"


class Shell:
    """Runs command lines with the streams that a shell makes for them."""

    def __init__(self, site: tuple[Database, ServerProcess], files: dict[str, str]) -> None:
        self._environ = {**scrubbed_environment(os.environ), "PATH": "/usr/bin:/bin"}
        self._database = site[0].environ
        self._words = {**files, "URL": site[1].url}
        # its reader has gone
        reader, self._unread = os.pipe()
        os.close(reader)

    def run(self, line: str, streams: Streams, terminal: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a command line; a stream that is "open" is a pipe of the test's."""
        command, *_ = words = [self._words.get(word, word) for word in line.split()]
        made = [STREAMS[kind].format(number=number) for number, kind in ((1, streams.stdout), (2, streams.stderr))]
        closed = ["0<&-"] if streams.stdin == "closed" else []
        return subprocess.run(
            ["bash", "-c", f'exec "$@" 7>&{self._unread} {" ".join(made + closed)} 7>&-', "bash", PROGRAM, *words],
            input=LISTED if command == "audit" else MANIFEST,
            pass_fds=[self._unread],
            env={**self._environ, **terminal, **(self._database if command == "audit" else {})},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def plain(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a command line with streams that work."""
        command, *_ = words = [self._words.get(word, word) for word in line.split()]
        audited = command == "audit"
        return run_here(
            *words, given=LISTED if audited else MANIFEST, environ=self._database if audited else {"PATH": ""}
        )


@pytest.fixture(scope="module")
def shell(site: tuple[Database, ServerProcess], files: dict[str, str]) -> Shell:
    return Shell(site, files)


FAILING = [
    *(Streams(stdin, stdout) for stdin in ("open", "closed") for stdout in ("closed", "full", "without a reader")),
    *(Streams(stderr=stderr) for stderr in ("closed", "full", "without a reader")),
    Streams("closed", "closed", "closed"),
]
CASES = [
    # each line, each kind of stream, each terminal
    *((line, FAILING[number % len(FAILING)], TERMINALS[number % 4]) for number, line in enumerate(LINES)),
    ("--version", Streams("closed", "closed", "closed"), {}),
    (AUDIT, Streams(stdout="full"), TERMINALS[2]),
    ("nonsénse", Streams(), TERMINALS[1]),
]


@pytest.mark.parametrize(("line", "streams", "terminal"), CASES)
def test_streams_that_do_not_work_end_in_a_sentence(
    shell: Shell, line: str, streams: Streams, terminal: dict[str, str]
) -> None:
    plain, done = shell.plain(line), shell.run(line, streams, terminal)
    assert "Traceback" not in done.stdout + done.stderr
    assert "report this as a defect" not in done.stderr
    said = done.stderr.splitlines()
    if streams.stdin == "closed" and " - " in line:
        assert done.returncode == 2
        assert streams.stderr != "open" or "(Bad file descriptor)" in done.stderr
    elif streams.stdout == "open" or not plain.stdout:
        assert done.returncode == plain.returncode
        assert streams.stderr != "open" or bool(said) == bool(plain.stderr)
    else:
        assert done.returncode == 1
        wanted = [] if streams.stdout == "without a reader" else ["postgres-writer: The output cannot be written"]
        assert streams.stderr != "open" or [each.partition(" (")[0] for each in said] == wanted
