"""The real Metacontroller as a process of the test: found, started, stopped, asked for its metrics."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from support.ports import free_port

SKIP_REASON = (
    "needs the metacontroller binary (v4.17.2 or newer): put it on PATH or name it with METACONTROLLER, "
    "then run `make e2e`"
)

# The flags with which docs/install.md runs it; its defaults (5 requests a second) hold the whole system back.
TUNED_FLAGS = ("--workers=32", "--client-go-qps=1000", "--client-go-burst=2000")

_GROUP = "metacontroller.k8s.io"
_KINDS = (
    ("CompositeController", "compositecontrollers", "Cluster", True),
    ("DecoratorController", "decoratorcontrollers", "Cluster", True),
    ("ControllerRevision", "controllerrevisions", "Namespaced", False),
)


def find_binary() -> Path | None:
    """Return the binary that METACONTROLLER names, or the one on PATH, or None."""
    named = os.environ.get("METACONTROLLER")
    found = shutil.which(named or "metacontroller")
    return Path(found) if found else None


def crd_manifests() -> list[dict[str, Any]]:
    """Return the CRDs of Metacontroller's own kinds.

    METACONTROLLER_CRDS names a folder with the ones of its release; without it, open schemas do, for only the API
    server reads them: Metacontroller decodes its objects itself.
    """
    folder = os.environ.get("METACONTROLLER_CRDS")
    if folder:
        texts = [path.read_text() for path in sorted(Path(folder).glob("*.yaml"))]
        return [document for text in texts for document in yaml.safe_load_all(text) if document]
    return [_open_crd(*kind) for kind in _KINDS]


def _open_crd(kind: str, plural: str, scope: str, status: bool) -> dict[str, Any]:
    version: dict[str, Any] = {
        "name": "v1alpha1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
    }
    if status:
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{_GROUP}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
        },
        "spec": {
            "group": _GROUP,
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "scope": scope,
            "versions": [version],
        },
    }


@dataclass
class HookCalls:
    """How often Metacontroller called a hook, by hook and HTTP code, as its own metrics count answers."""

    sync: int = 0
    finalize: int = 0
    refused: int = 0

    def __sub__(self, other: HookCalls) -> HookCalls:
        return HookCalls(self.sync - other.sync, self.finalize - other.finalize, self.refused - other.refused)

    def __add__(self, other: HookCalls) -> HookCalls:
        return HookCalls(self.sync + other.sync, self.finalize + other.finalize, self.refused + other.refused)

    @property
    def total(self) -> int:
        """Every answered call."""
        return self.sync + self.finalize


@dataclass
class Metacontroller:
    """One Metacontroller process against the API server that `kubeconfig` names.

    `calls()` adds up over restarts, because a killed process takes its counters along. A process that ends by itself
    is started again, as the kubelet does, and counted in `crashes`: it ends when it has lost its lease, and 4.17.2
    panics when a controller is changed or deleted in the moment in which it writes a finalizer.
    """

    binary: Path
    kubeconfig: Path
    log: Path
    flags: tuple[str, ...] = ()
    crashes: int = 0
    process: subprocess.Popen[bytes] | None = None
    metrics_port: int = 0
    health_port: int = 0
    _before: HookCalls = field(default_factory=HookCalls)
    _last: HookCalls = field(default_factory=HookCalls)

    def start(self, timeout: float = 60) -> None:
        """Start it and wait until it is healthy; TimeoutError with the end of its log otherwise."""
        self.metrics_port, self.health_port = free_port(), free_port()
        # Nothing of the developer's environment but PATH: a proxy variable, say, would send the hooks elsewhere.
        env = {"PATH": os.environ["PATH"], "HOME": str(self.log.parent), "KUBECONFIG": str(self.kubeconfig)}
        command = [
            str(self.binary),
            f"--metrics-address=127.0.0.1:{self.metrics_port}",
            f"--health-probe-bind-address=127.0.0.1:{self.health_port}",
            "--discovery-interval=2s",
            *TUNED_FLAGS,
            *self.flags,
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + timeout
        while not self._healthy():
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.kill()
                raise TimeoutError(f"metacontroller did not become healthy:\n{self.tail()}")
            time.sleep(0.1)
        threading.Thread(target=self._supervise, args=(self.process,), daemon=True).start()

    def stop(self) -> None:
        """End it with SIGTERM, as a pod's end does."""
        self.end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash does."""
        self.end(signal.SIGKILL)

    def end(self, sign: signal.Signals) -> None:
        """Send `sign` (a stopped process is continued, or it could not end) and wait for the end."""
        process = self.process
        if process is None:
            return
        self.calls()
        self.process = None  # from here on its end is wanted
        if process.poll() is None:
            process.send_signal(sign)
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._before, self._last = self._before + self._last, HookCalls()

    def _supervise(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        if self.process is process:
            self.crashes += 1
            self._before, self._last = self._before + self._last, HookCalls()
            time.sleep(1)
            if self.process is process:
                self.start()

    def pause(self) -> None:
        """Freeze the process (SIGSTOP)."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the frozen process go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def calls(self) -> HookCalls:
        """Return the answered hook calls since the first start."""
        try:
            text = self._get(self.metrics_port, "/metrics")
        except OSError:
            return self._before + self._last
        self._last = count_calls(text)
        return self._before + self._last

    def queued(self) -> int:
        """Return how many resources wait in its queues to be synced now."""
        found = re.findall(r"^workqueue_depth{.*} (\S+)$", self._get(self.metrics_port, "/metrics"), re.MULTILINE)
        return int(sum(map(float, found)))

    def tail(self, size: int = 3000) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else ""

    def _healthy(self) -> bool:
        try:
            return self._get(self.health_port, "/healthz") == "ok"
        except OSError:
            return False

    @staticmethod
    def _get(port: int, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            body: bytes = response.read()
        return body.decode()


def count_calls(text: str) -> HookCalls:
    """Return the hook calls that Metacontroller's metrics tell."""
    calls = HookCalls()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    for sample in samples:
        if sample.name == "metacontroller_sync_requests_total":
            calls.sync += int(sample.value)
        elif sample.name == "metacontroller_finalize_requests_total":
            calls.finalize += int(sample.value)
        else:
            continue
        if sample.labels["code"] != "200":
            calls.refused += int(sample.value)
    return calls
