"""The folder of several databases as pods see it; no kubelet runs, so it is made from the objects of the API server."""

from __future__ import annotations

import base64
import json
import shutil
from typing import TYPE_CHECKING, Any

from support.manifests import pick

if TYPE_CHECKING:
    from pathlib import Path

    from support.apiserver import ApiServer
    from support.manifests import Manifest

NAMESPACE = "postgres-writer"


def of_server(manifests: list[Manifest]) -> dict[str, Any]:
    """Return the spec of the server's pods."""
    spec: dict[str, Any] = pick(manifests, "Deployment")["spec"]["template"]["spec"]
    return spec


def of_audit(manifests: list[Manifest]) -> dict[str, Any]:
    """Return the spec of the audit's pods."""
    job = pick(manifests, "CronJob", "postgres-writer-audit")["spec"]["jobTemplate"]["spec"]
    spec: dict[str, Any] = job["template"]["spec"]
    return spec


def sources(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the sources of the volume `databases`."""
    (volume,) = [each for each in pod["volumes"] if each["name"] == "databases"]
    found: list[dict[str, Any]] = volume["projected"]["sources"]
    return found


def mount(server: ApiServer, listed: list[dict[str, Any]], folder: Path) -> None:
    """Make the folder what the kubelet makes of the sources; as there, only what is optional may be missing."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for source in listed:
        ((kind, wanted),) = source.items()
        command = ("-n", NAMESPACE, "get", kind.lower(), wanted["name"], "--ignore-not-found", "-o", "json")
        found = server.kubectl(*command).stdout
        data = json.loads(found).get("data", {}) if found else {}
        for item in wanted["items"]:
            assert item["key"] in data or wanted["optional"], f"the pod would wait for {item}"
            if item["key"] in data:
                file = folder / item["path"]
                file.parent.mkdir(exist_ok=True)
                text = data[item["key"]]
                file.write_bytes(base64.b64decode(text) if kind == "secret" else text.encode())
