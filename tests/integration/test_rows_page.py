"""docs/rows.md: its tables are made, and its resources become Ready with the rows that it describes."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from postgres_writer.core.policy import parse_policy
from postgres_writer.core.row import POSTGRES_ROW
from postgres_writer.database.store import Store
from support.postgres import Database
from support.subject import Subject

PAGE = (Path(__file__).parents[2] / "docs" / "rows.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the blocks of the page that are in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def declared(store: Store, manifest: dict[str, Any]) -> Subject:
    """Return the resource of a manifest."""
    metadata = {"namespace": manifest["metadata"]["namespace"], "name": manifest["metadata"]["name"]}
    return Subject(store, manifest["spec"], kind=POSTGRES_ROW, metadata=metadata)


def test_what_the_page_shows_works(database: Database) -> None:
    *manifests, policy = [yaml.safe_load(block) for block in blocks("yaml")]
    plans, rates, adopt = blocks("sql")
    allowed = parse_policy(yaml.safe_dump(policy))
    store = Store(database.config())
    try:
        database.query(f"{plans}; {rates}")
        gold, france = (declared(store, manifest) for manifest in manifests)
        for subject in (gold, france):
            subject.permits = partial(allowed.permits, schema="public")
            subject.sync()
            assert subject.ready == "True RowSynced", subject.message
        assert database.query("SELECT id, title, monthly::text, features, limits->>'memory', ends FROM plans") == [
            ("row/billing/gold", "Gold", "19.90", ["sso", "audit"], "8Gi", None)
        ]
        database.query(adopt)
        assert database.query("SELECT id, country, rate::text, declared_by FROM vat_rates ORDER BY id") == [
            (1, "de", "19.00", "row/billing/germany"),
            (2, "fr", "20.00", "row/billing/france"),
        ]
        for subject in (gold, france):
            assert subject.finalize()
        assert database.query("SELECT declared_by FROM vat_rates") == [("row/billing/germany",)]
    finally:
        store.close()
        database.query("DROP TABLE IF EXISTS plans, vat_rates")
