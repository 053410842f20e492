"""Which database a name means: folders that appear, change, break and go, noticed without a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from postgres_writer.config.settings import Config, DatabaseConfig
from postgres_writer.config.variables import DEFAULT_DATABASE
from postgres_writer.database.databases import _READ_SECONDS, Databases
from postgres_writer.errors import DatabaseNotConfigured

ENVIRON = {"PSQL_HOST": "main", "PSQL_PASSWORD": "secret", "PSQL_USER": "main", "PSQL_STATEMENT_TIMEOUT": "2"}


class Clock:
    """What the databases take for the time."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def go_on(self) -> None:
        self.now += _READ_SECONDS + 0.1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("postgres_writer.database.databases.time.monotonic", clock)
    return clock


@pytest.fixture
def databases(tmp_path: Path) -> Databases:
    return Databases(Config(DatabaseConfig.from_env(ENVIRON), databases_dir=tmp_path), ENVIRON)


def write(folder: Path, **files: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def missing(databases: Databases, name: str) -> DatabaseNotConfigured:
    found = databases.find(name)
    assert found.missing is not None
    return found.missing


def test_a_folder_that_appears_changes_and_goes_is_noticed(databases: Databases, tmp_path: Path, clock: Clock) -> None:
    assert not missing(databases, "archive").found
    write(tmp_path / "archive", host="one", dbname="old")
    first = databases.find("archive")
    assert (first.missing, first.config.host_names, first.config.dbname) == (None, ("one",), "old")
    assert databases.find("archive") is first
    write(tmp_path / "archive", host="two", PSQL_SCHEMA="kept")
    assert databases.find("archive") is first, "not read at every request"
    clock.go_on()
    second = databases.find("archive")
    assert second.config.host_names == ("two",)
    assert databases.schema("archive") == "kept"
    assert second.store is not first.store, "nothing that was learned of another server is kept"
    clock.go_on()
    assert databases.find("archive") is second, "the same text is the same database"
    for file in (tmp_path / "archive").iterdir():
        file.unlink()
    (tmp_path / "archive").rmdir()
    clock.go_on()
    assert not missing(databases, "archive").found
    assert databases.find(DEFAULT_DATABASE).missing is None


def test_one_that_is_unusable_is_its_own_trouble(databases: Databases, tmp_path: Path, clock: Clock) -> None:
    write(tmp_path / "archive", host="one", port="x")
    write(tmp_path / "other", host="two")
    trouble = missing(databases, "archive")
    assert trouble.found
    assert "PSQL_PORT must be a whole number" in str(trouble)
    assert databases.find("other").missing is None
    write(tmp_path / "archive", port="5433")
    assert databases.find("archive").missing is None, "an unusable one is read again at once"
    write(tmp_path / "archive", host="")
    clock.go_on()
    assert "no file host" in str(missing(databases, "archive"))


@pytest.mark.parametrize("name", ["", "..", "../archive", ".hidden", "UPPER", "a/b", "a.b", "-a", "a" * 64])
def test_what_is_no_name_reaches_no_folder(databases: Databases, tmp_path: Path, name: str) -> None:
    write(tmp_path, host="trap")
    write(tmp_path / ".hidden", host="trap")
    assert not missing(databases, name).found


def test_unknown_names_leave_nothing_behind(databases: Databases) -> None:
    for number in range(1000):
        missing(databases, f"name-{number}")
    assert list(databases._known) == [DEFAULT_DATABASE]


def test_which_database_it_is_comes_from_the_folder_alone(databases: Databases, tmp_path: Path) -> None:
    write(tmp_path / "archive", host="one\n", password="first\nsecond\n", statement_timeout="3")
    config = databases.find("archive").config
    assert (config.host_names, config.ports, config.dbname, config.user) == (("one",), (5432,), "postgres", "postgres")
    assert config.passwords() == ("first", "second")
    write(tmp_path / "plain", host="two")
    plain = databases.find("plain").config
    assert (plain.passwords(), plain.statement_timeout) == (("",), 2.0), "other settings are inherited"
    assert config.statement_timeout == 3.0


def test_the_password_is_read_for_every_connection(databases: Databases, tmp_path: Path, clock: Clock) -> None:
    write(tmp_path / "archive", host="one", password="first")
    found = databases.find("archive")
    write(tmp_path / "archive", password="second")
    assert found.config.passwords() == ("second",)
    clock.go_on()
    assert databases.find("archive") is found, "a rotation loses no connection that works"


def test_a_mounted_secret_of_an_operator_is_taken_as_it_is(databases: Databases, tmp_path: Path) -> None:
    """As CloudNativePG writes it, in a volume as the kubelet makes it: links to a hidden folder."""
    hidden = tmp_path / "..2026_01_01" / "archive"
    hidden.parent.mkdir()
    keys = {"username": "app", "user": "app", "password": "x", "dbname": "app", "host": "cluster-rw", "port": "5432"}
    write(hidden, **keys, uri="postgresql://app:x@cluster-rw:5432/app", pgpass="cluster-rw:5432:app:app:x")
    write(hidden, **{"jdbc-uri": "jdbc:postgresql://cluster-rw:5432/app?password=x", "fqdn-uri": "postgresql://"})
    (tmp_path / "..data").symlink_to(hidden.parent)
    (tmp_path / "archive").symlink_to(Path("..data") / "archive")
    config = databases.find("archive").config
    assert (config.host_names, config.user, config.dbname, config.passwords()) == (
        ("cluster-rw",),
        "app",
        "app",
        ("x",),
    )


def test_what_cannot_be_looked_at_is_not_taken_for_absent(databases: Databases, tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    assert missing(databases, "dangling").found
    write(tmp_path / "archive", host="one")
    assert databases.find("archive").missing is None
    tmp_path.rename(tmp_path.with_name("away"))
    clock.go_on()
    assert missing(databases, "archive").found, "the folder of all is gone: nobody knows what was in it"


def test_a_setting_that_does_not_exist_is_not_ignored(databases: Databases, tmp_path: Path) -> None:
    write(tmp_path / "archive", host="one", PSQL_SSL_MODE="require")
    assert "PSQL_SSL_MODE is no setting" in str(missing(databases, "archive"))
