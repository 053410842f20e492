"""Folders of databases as mounted Secrets have them, for tests of servers with several databases."""

from __future__ import annotations

from pathlib import Path

from support.postgres import Database


def write_folder(parent: Path, name: str, database: Database, **more: str) -> Path:
    """Write the folder of a database, whose files end as an editor ends them; ``more`` are further settings."""
    folder = parent / name
    folder.mkdir(parents=True, exist_ok=True)
    keys = {key.removeprefix("PSQL_").lower(): value for key, value in database.environ.items()}
    for key, value in {**keys, **more}.items():
        (folder / key).write_text(f"{value}\n")
    return folder
