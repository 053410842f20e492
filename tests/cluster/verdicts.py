"""What Flux and Helm 4 (kstatus) and Argo CD (by the health check of docs/gitops.md) make of objects.

kstatus is a library in Go (https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus). `kstatus/` beside
this file is a program of one page around it, built once and cached as the API server's programs are, with whose modules
it shares Go's caches. The health check runs in a real Lua.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from postgres_writer.core.row import GROUP, KINDS
from support.kube_tools import HOW_TO_GET_THEM
from support.programs import ProgramMissing, find_program

if TYPE_CHECKING:
    from collections.abc import Iterable

_SOURCE = Path(__file__).parent / "kstatus"
_GUIDE = Path(__file__).parents[2] / "docs" / "gitops.md"


def find_kstatus() -> Path:
    """Return the program, building it when it is not in the cache.

    Raises `ProgramMissing` when there is no go to build it, `subprocess.CalledProcessError` when the build fails.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "postgres-writer"
    text = b"".join((_SOURCE / name).read_bytes() for name in ("main.go", "go.mod", "go.sum"))
    program = cache / f"kstatus-{hashlib.sha256(text).hexdigest()[:12]}"
    if program.is_file():
        return program
    if shutil.which("go") is None:
        raise ProgramMissing(f"kstatus is not here, and go is not on PATH to build it. {HOW_TO_GET_THEM}")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="kstatus.build.") as temporary:
        built = Path(temporary) / "kstatus"
        command = ["go", "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", str(built), "."]
        subprocess.run(command, cwd=_SOURCE, env={**os.environ, "CGO_ENABLED": "0"}, check=True)
        built.replace(program)  # a build that was cut off leaves nothing that looks ready
    return program


def judge(objects: Iterable[dict[str, Any]]) -> list[str]:
    """Return kstatus's verdict on each object: InProgress, Current, Failed, Terminating."""
    lines = "".join(json.dumps(found) + "\n" for found in objects)
    done = subprocess.run([find_kstatus()], input=lines, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()


def find_lua() -> Path:
    """Return Lua. Raises `ProgramMissing` when it is not installed."""
    return Path(find_program("lua5.4", "lua5.4"))


def argo_health(objects: Iterable[dict[str, Any]]) -> list[str]:
    """Return Argo CD's health of each object: Healthy, Progressing, Degraded, Suspended."""
    check = f"local function check(obj)\n{_health_check()}\nend\n"
    calls = "".join(f"print(check({_lua(found)}).status)\n" for found in objects)
    done = subprocess.run([find_lua(), "-"], input=check + calls, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()


def _health_check() -> str:
    blocks = re.findall(r"^```yaml\n(.*?)^```$", _GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (config,) = [block for block in blocks if "resource.customizations.health" in block]
    data: dict[str, str] = yaml.safe_load(config)["data"]
    (check,) = {data[f"resource.customizations.health.{GROUP}_{kind}"] for kind in KINDS}
    return check


def _lua(value: object) -> str:
    """Write a JSON value in Lua; null is the absence of a key, as in Argo CD."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"[{_lua(key)}] = {_lua(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "{" + ", ".join(map(_lua, value)) + "}"
    if isinstance(value, str):
        return '"' + "".join(f"\\{byte:03}" for byte in value.encode()) + '"'
    return "nil" if value is None else str(value).lower()
