"""Only PSQL_* variables lead to the database: libpq's own variables and its files in the home folder do not count."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from integration.audits import made
from support.certificates import make_certificate
from support.command import run_here
from support.memory import memory_folder
from support.payloads import payload, resource
from support.postgres import Database, private_instance
from support.programs import ProgramMissing, found_or_skipped, packaged_programs
from support.server import running_server

if TYPE_CHECKING:
    from subprocess import CompletedProcess

VARIABLES = {
    "PGOPTIONS": "-c search_path=evil",
    "PGSERVICE": "elsewhere",
    "PGSSLMODE": "verify-full",
    "PGTARGETSESSIONATTRS": "standby",
    "PGREQUIREAUTH": "gss",
    "PGHOSTADDR": "192.0.2.1",
    "PGCONNECT_TIMEOUT": "nonsense",
    "PGSSLMINPROTOCOLVERSION": "nonsense",
}
KEPT = {"PGBOUNCER_SERVICE_HOST": "192.0.2.1"}
"""What Kubernetes sets for a Service named pgbouncer is neither removed nor reported."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Make a home folder with everything that libpq looks for: each of the files would change what happens."""
    folder = tmp_path / "home"
    (folder / ".postgresql").mkdir(parents=True)
    (folder / ".pg_service.conf").write_text("[elsewhere]\nhost=192.0.2.1\n")
    (folder / ".pgpass").write_text("*:*:*:*:right\n")
    (folder / ".pgpass").chmod(0o600)
    shutil.copy(make_certificate(tmp_path, "stranger").certificate, folder / ".postgresql" / "root.crt")
    for name in ("postgresql.crt", "postgresql.key", "root.crl"):
        (folder / ".postgresql" / name).write_text("no certificate")
        (folder / ".postgresql" / name).chmod(0o600)
    return folder


@pytest.fixture(scope="module")
def guarded() -> Iterator[Database]:
    """Run a PostgreSQL that wants TLS and a password."""

    def find() -> Path:
        if (found := packaged_programs()) is None:
            raise ProgramMissing("PostgreSQL with TLS is not installed: apt-get install postgresql.")
        return found

    folder = Path(tempfile.mkdtemp(prefix="pgw-"))
    folder.chmod(0o755)
    files = make_certificate(folder)
    if files.key.owner() == "root":
        shutil.chown(files.key, user="pgserver")
    settings = {"ssl": "on", "ssl_cert_file": str(files.certificate), "ssl_key_file": str(files.key)}
    with private_instance(
        memory_folder(), programs=found_or_skipped(find), password="right", settings=settings
    ) as instance:
        yield instance.maintenance.create_sibling()
    shutil.rmtree(folder)


def audited(environ: dict[str, str]) -> CompletedProcess[str]:
    listed = json.dumps({"kind": "List", "items": [made("sample")]})
    return run_here("audit", "-", "-o", "json", given=listed, environ=environ)


def synced(environ: dict[str, str]) -> tuple[dict[str, Any], str]:
    """Return the condition Ready of a sync, and the log of the server."""
    with running_server(None, **environ) as server:
        answer = server.post("sync", payload(resource())).json()
        return answer["status"]["conditions"][0], server.logs


def test_the_variables_of_libpq_are_ignored_and_named(database: Database, home: Path) -> None:
    database.query("CREATE SCHEMA evil")
    database.create_table("evil.students")
    environ = {**database.environ, **VARIABLES, **KEPT, "HOME": str(home)}
    condition, logs = synced(environ)
    assert condition["reason"] == "RowSynced", condition
    assert database.rows("evil.students") == []
    assert [row[0] for row in database.rows("public.students")] == ["default/sample"]
    [line] = [line for line in logs.splitlines() if "only the PSQL_* variables count" in line]
    audit = audited(environ)
    assert (audit.returncode, json.loads(audit.stdout)["findings"]) == (0, [])
    [said] = audit.stderr.splitlines()
    for text in (line, said):
        assert [name for name in VARIABLES if name not in text] == []
        assert "PGBOUNCER" not in text


def test_the_files_of_libpq_are_not_read(guarded: Database, home: Path) -> None:
    # a root certificate in the home folder would make it verify-ca
    environ = {**guarded.environ, "PSQL_SSLMODE": "require", "HOME": str(home)}
    condition, _ = synced(environ)
    assert condition["reason"] == "RowSynced", condition
    audit = audited(environ)
    assert (audit.returncode, audit.stderr) == (0, "")
    # the password of the file is the right one
    without = {**environ, "PSQL_PASSWORD": ""}
    audit = audited(without)
    assert (audit.returncode, "cannot be reached" in audit.stderr) == (2, True)
    assert "password file" not in audit.stderr
