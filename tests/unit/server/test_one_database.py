"""A request belongs to one configuration of its database, whenever that changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from postgres_writer.config.settings import Config, DatabaseConfig
from postgres_writer.database import databases
from postgres_writer.database.databases import Databases
from postgres_writer.server.app import create_app
from support.payloads import payload, resource
from support.ports import free_port
from support.spec_cases import spec_with


def test_a_request_reads_the_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    read, from_folder = list[Path](), DatabaseConfig.from_folder

    def note(path: Path, environ: dict[str, str]) -> DatabaseConfig:
        read.append(path)
        (path / "schema").write_text(f"schema_{len(read)}")
        return from_folder(path, environ)

    monkeypatch.setattr(databases, "_READ_SECONDS", -1.0)
    monkeypatch.setattr(DatabaseConfig, "from_folder", note)
    for name, text in {"host": "127.0.0.1", "port": str(free_port()), "dbname": "archive", "user": "writer"}.items():
        (folder / name).write_text(text)
    config = Config(DatabaseConfig(("127.0.0.1",), (free_port(),)), databases_dir=tmp_path)
    client = create_app(config, Databases(config, {"PSQL_CONNECT_TIMEOUT": "1"})).test_client()
    answer = client.post("/sync", json=payload(resource(spec_with(database="archive"))))
    assert read == [folder]
    assert answer.json is not None
    assert answer.json["status"]["tables"] == ["schema_1.students"]
