"""The yardstick: a bare Flask endpoint on the gunicorn settings of the hook server.

It does what any Flask hook must: decode the JSON body and answer JSON (of the size of a real answer). Run as
``python -m bench.bare`` with the variables of the hook server.
"""

from __future__ import annotations

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import os
import sys
from typing import Any

from flask import Flask, request

from bench import bodies
from postgres_writer.config.settings import Config
from postgres_writer.server.gunicorn_app import HookApplication
from postgres_writer.telemetry import logs
from postgres_writer.telemetry.folder import metrics_folder

ANSWER = {"status": bodies.status("noop"), "children": [], "resyncAfterSeconds": 271.828, "finalized": False}


def create_app() -> Flask:
    """Make the endpoint."""
    app = Flask("bare")

    @app.post("/sync")
    def sync() -> dict[str, Any]:
        if not isinstance(request.get_json(), dict):
            raise TypeError
        return ANSWER

    @app.get("/healthz")
    def healthz() -> str:
        return "ok\n"

    return app


if __name__ == "__main__":
    config = Config.from_env(os.environ)
    logs.configure(config.log_level, config.log_format)
    try:
        with metrics_folder():
            HookApplication(config, create_app).run()
    except SystemExit as end:
        sys.exit(end.code)
