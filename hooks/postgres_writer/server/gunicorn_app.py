"""gunicorn with the packaged settings, and its hooks."""

import gc
import logging
import os
import resource
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from postgres_writer.config.settings import Config
from postgres_writer.deadlines import GRACEFUL_SECONDS, KEEPALIVE_SECONDS
from postgres_writer.server.files import Watched, server_context
from postgres_writer.server.worker import Connection, hold_signals
from postgres_writer.telemetry.logs import RateLimit

CONNECTIONS = 2000
"""Connections of callers that a worker serves at a time: each costs about 25 KB, and further ones wait."""
_COLLECT_AFTER = 10_000
"""How many more objects than at the last look make the garbage collector look again; Python's default is 700."""
SPARE_FILES = 512  # descriptors for everything else: connections to PostgreSQL (at most 256), libraries, look-ups
_MEMORY = Path("/dev/shm")  # noqa: S108 # files there get random names from tempfile


class RootLogger(Logger):
    """Hands gunicorn's own messages to the root logger, so that they get the format of all others."""

    def setup(self, cfg: Any) -> None:
        """Leave level and handlers to the root logger; there is no access log."""
        self.cfg = cfg
        self._access_log_enabled = False
        self.error_log.handlers.clear()
        self.error_log.setLevel(logging.NOTSET)
        self.error_log.propagate = True
        self.error_log.addFilter(RateLimit())


class HookApplication(BaseApplication):
    """The WSGI application under gunicorn."""

    def __init__(self, config: Config, listener: socket.socket, app: Any, begin: Callable[[], None]) -> None:
        """``app`` is called for every request; ``begin`` is run in the worker, beside its requests."""
        self._config, self._begin = config, begin
        self._bind = f"fd://{listener.detach()}"
        super().__init__()
        self.callable = app

    def load_config(self) -> None:
        """Set gunicorn's settings; nothing is read from its own files, variables and arguments."""
        for name, value in gunicorn_settings(self._config).items():
            self.cfg.set(name, value)
        self.cfg.set("bind", self._bind)
        self.cfg.set("worker_connections", worker_connections())
        self.cfg.set("post_worker_init", lambda _worker: threading.Thread(target=self._begin, daemon=True).start())


def gunicorn_settings(config: Config) -> dict[str, Any]:
    """Return gunicorn's settings, each one that differs from its default for a reason."""
    chosen: dict[str, Any] = {
        "worker_class": "postgres_writer.server.worker.HookWorker",
        # more would count apart, and one answers more calls than an API server lets through: replicas add more
        "workers": 1,
        "keepalive": KEEPALIVE_SECONDS,
        "graceful_timeout": GRACEFUL_SECONDS,
        # so that a replacement has everything imported; the store connects lazily, so no worker inherits a connection
        "preload_app": True,
        # the worker's heartbeat file: the root file system may be read-only, and a slow disk would stop the worker
        "worker_tmp_dir": str(_MEMORY) if os.access(_MEMORY, os.W_OK) else None,
        # it would take commands to the master over a Unix socket, and nothing here gives any
        "control_socket_disable": True,
        "logger_class": RootLogger,
        # no caller may set anything by a header, so gunicorn need not look up at each request whether it is a proxy
        "forwarded_allow_ips": "*",
        "forwarder_headers": "",
        "secure_scheme_headers": {},
        "pre_fork": lambda _arbiter, _worker: hold_signals(),
        "post_fork": after_fork,
    }
    if config.tls_cert_file and config.tls_key_file:
        context = Watched("server certificate", server_context, config.tls_cert_file, config.tls_key_file)
        chosen |= {"certfile": str(config.tls_cert_file), "keyfile": str(config.tls_key_file)}
        # gevent asks it for every new connection: open ones keep their certificate, new ones get the new one
        wrapper = SimpleNamespace(wrap_socket=lambda sock, **_options: Connection(sock, context.current()))
        chosen["ssl_context"] = lambda _config, _default_factory: wrapper
    return chosen


def worker_connections() -> int:
    """Return how many connections of callers a worker may have, and let it open that many files and some more.

    Without one to spare a worker could neither accept a connection nor open one to PostgreSQL, and would end.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + SPARE_FILES
    files = max(soft, wanted if hard == resource.RLIM_INFINITY else min(wanted, hard))
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    # where the hard limit is low, at least half of the files are for callers
    return min(CONNECTIONS, max(files - SPARE_FILES, files // 2))


def after_fork(_arbiter: Any, worker: Any) -> None:
    """Spare the worker most of the garbage collector, and a search for each of gunicorn's settings in each request."""
    vars(worker.cfg).update({name: setting.get() for name, setting in worker.cfg.settings.items()})
    # what was loaded before the fork lives as long as the process, and most of a request dies without the collector
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)
