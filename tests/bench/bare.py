"""The yardstick: a bare Flask endpoint as its author would run it, on gunicorn's gthread worker with four threads.

It does what any Flask hook must: decode the JSON body and answer JSON (of the size of a real answer). ``command`` says
how it is started.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from flask import Flask, request

from bench import bodies
from postgres_writer.deadlines import KEEPALIVE_SECONDS

THREADS = 4
ANSWER = {
    "status": bodies.status("noop", bodies.WRITER),
    "children": [],
    "resyncAfterSeconds": 271.828,
    "finalized": False,
}

app = Flask("bare")


@app.post("/sync")
def sync() -> dict[str, Any]:
    """Answer a sync."""
    if not isinstance(request.get_json(), dict):
        raise TypeError
    return ANSWER


@app.get("/healthz")
def healthz() -> str:
    """Answer once the endpoint serves."""
    return "ok\n"


def command(port: int, certificate: Path | None = None, key: Path | None = None) -> list[str]:
    """Give the command that serves it with one worker, as the hook server has, on a port of the loopback."""
    options = {
        "--bind": f"127.0.0.1:{port}",
        "--worker-class": "gthread",
        "--threads": THREADS,
        "--keep-alive": KEEPALIVE_SECONDS,
        **({"--certfile": certificate, "--keyfile": key} if certificate and key else {}),
    }
    gunicorn = str(Path(sys.executable).with_name("gunicorn"))
    return [gunicorn, *(str(part) for option in options.items() for part in option), f"{__name__}:app"]
