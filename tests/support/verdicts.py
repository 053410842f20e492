"""kstatus's own verdicts on objects: what Flux and Helm 4 make of a status.

The library (https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus) is Go: `kstatus/` beside this file is
a program of one page around it, built once and cached as the API server's programs are, with whose modules it shares
Go's caches.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.kube_tools import HOW_TO_GET_THEM, ToolsMissing

if TYPE_CHECKING:
    from collections.abc import Iterable

_SOURCE = Path(__file__).parent / "kstatus"


def find_kstatus() -> Path:
    """Return the program, building it when it is not in the cache.

    Raises `ToolsMissing` when there is no go to build it, `subprocess.CalledProcessError` when the build fails.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "postgres-writer"
    text = b"".join((_SOURCE / name).read_bytes() for name in ("main.go", "go.mod", "go.sum"))
    program = cache / f"kstatus-{hashlib.sha256(text).hexdigest()[:12]}"
    if program.is_file():
        return program
    if shutil.which("go") is None:
        raise ToolsMissing(f"kstatus is not here, and go is not on PATH to build it. {HOW_TO_GET_THEM}")
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
