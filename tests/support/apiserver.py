"""A real API server for tests: etcd, kube-apiserver, and kubectl as a user runs it.

What is real: storage, schemas, admission (PodSecurity included), RBAC, service account tokens, watches.
What is not there: nodes, so a created pod is admitted and then stays Pending.
Without `start_controllers()` nothing but the API server acts: a deleted namespace stays Terminating, ClusterRoles are
not aggregated, a new namespace gets no `default` ServiceAccount (without which it admits no pod), and a Deployment
makes no pods. `start_controllers()` runs kube-controller-manager with just the controllers that do these things.

Everything listens on 127.0.0.1 with free ports and keeps its data in the folder it is given. The processes end with
`stop()`, and on Linux also with the thread that started them, should the test run be killed: start them from the
main thread.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Final

import requests
import yaml

from support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from support.kube_tools import Tools

ADMIN: Final = "admin"
CONTROLLERS: Final = (
    "clusterrole-aggregation-controller",
    "deployment-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
)
START_SECONDS: Final = 60
STOP_SECONDS: Final = 3
"""How long a part may take to stop; kube-apiserver would wait a minute for the watches that clients hold open."""


class KubectlError(AssertionError):
    """A kubectl call that a test expected to succeed has failed; the text holds its command and what it printed."""


class ApiServer:
    """One API server with its etcd. `start()` it, use `kubectl()`, `stop()` it; also a context manager.

    `url`, `kubeconfig` (the administrator's, in system:masters) and `token` are valid after the first `start()` and
    stay the same over `restart()`.
    """

    def __init__(self, folder: Path, tools: Tools) -> None:
        self.tools = tools
        self.folder = folder
        self.token = secrets.token_hex(16)
        self.kubeconfig = folder / "admin.kubeconfig"
        self.port, self._etcd_port, self._peer_port = (free_port() for _ in range(3))
        self.url = f"https://127.0.0.1:{self.port}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def certificate(self) -> Path:
        """The certificate that clients must trust; the API server makes it at its first start."""
        return self.folder / "certs" / "apiserver.crt"

    def __enter__(self) -> ApiServer:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start what is not running and return when requests are answered; RuntimeError with the log if not."""
        if not self.kubeconfig.exists():
            self._prepare()
        if not self._alive("etcd"):
            self._spawn("etcd", self._etcd_command())
        if not self._alive("kube-apiserver"):
            self._spawn("kube-apiserver", self._apiserver_command())
        self._wait(self._ready, "kube-apiserver")

    def start_controllers(self) -> None:
        """Start kube-controller-manager with `CONTROLLERS`; RuntimeError when there is no such program here."""
        if self.tools.controller_manager is None:
            raise RuntimeError(
                "kube-controller-manager is not in KUBEBUILDER_ASSETS; add it there or unset that variable."
            )
        if self._alive("kube-controller-manager"):
            return
        self._spawn("kube-controller-manager", self._controllers_command(self.tools.controller_manager))
        default = ("get", "serviceaccount", "default", "--namespace=default")
        self._wait(lambda: self.kubectl(*default, check=False).returncode == 0, "kube-controller-manager")

    def kill(self) -> None:
        """End the API server at once, as a crash would; etcd and its data stay."""
        self._end("kube-apiserver", signal.SIGKILL)

    def restart(self) -> None:
        """Stop the API server if it runs and start it again on the same port and data."""
        self._end("kube-apiserver")
        self.start()

    def stop(self) -> None:
        """Stop everything; does nothing when nothing runs."""
        for name in ("kube-controller-manager", "kube-apiserver", "etcd"):
            self._end(name)

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,
        user: str | None = None,
        groups: Sequence[str] = (),
        check: bool = True,
        timeout: float = 90,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator, or as `user` in `groups`, and return what it printed.

        Raises `KubectlError` when it fails and `check` is true.
        """
        identity = [] if user is None else [f"--as={user}", *(f"--as-group={group}" for group in groups)]
        command = [str(self.tools.kubectl), *identity, *arguments]
        done = subprocess.run(
            command,
            input=input,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode != 0:
            shown = " ".join(["kubectl", *command[1:]])
            raise KubectlError(f"{shown}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def environment(self) -> dict[str, str]:
        """Return the environment in which `kubectl` on PATH is this server's and speaks to it as the administrator."""
        return {
            **os.environ,
            "PATH": f"{self.tools.kubectl.parent}{os.pathsep}{os.environ['PATH']}",
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(self.folder / "kubectl-cache"),  # the shared one remembers other servers by port
            "KUBERC": "off",
        }

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """Write a kubeconfig that acts as the user (by impersonation) and return its path.

        A service account is user `system:serviceaccount:NAMESPACE:NAME` in the groups `system:serviceaccounts`,
        `system:serviceaccounts:NAMESPACE` and `system:authenticated`.
        """
        identity: dict[str, object] = {"token": self.token, "as": user}
        if groups:
            identity["as-groups"] = list(groups)
        path = self.folder / f"{user.replace(':', '_').replace('/', '_')}.kubeconfig"
        self._write_kubeconfig(path, user, identity)
        return path

    def compact(self) -> None:
        """Let etcd forget everything but the newest state, as the API server has it do every five minutes."""
        etcd = f"http://127.0.0.1:{self._etcd_port}/v3/kv"
        newest = requests.post(f"{etcd}/range", json={"key": "AA=="}, timeout=60).json()["header"]["revision"]
        answer = requests.post(f"{etcd}/compaction", json={"revision": newest, "physical": True}, timeout=60)
        answer.raise_for_status()

    def etcd_bytes(self) -> int:
        """Return what etcd's file holds in use, its history compacted away."""
        self.compact()
        text = requests.get(f"http://127.0.0.1:{self._etcd_port}/metrics", timeout=60).text
        name = "etcd_mvcc_db_total_size_in_use_in_bytes"
        return next(int(float(line.split()[1])) for line in text.splitlines() if line.startswith(f"{name} "))

    def log(self, name: str, size: int = 4000) -> str:
        """Return the end of a process's log (`etcd`, `kube-apiserver`, `kube-controller-manager`)."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace")[-size:] if path.exists() else ""

    def pid(self, name: str) -> int:
        """Return the process id of a running part; KeyError when it does not run."""
        return self._processes[name].pid

    def _prepare(self) -> None:
        (self.folder / "certs").mkdir(parents=True, exist_ok=True)
        key = self.folder / "service-account.key"
        for arguments in (
            ("genrsa", "-out", str(key), "2048"),
            ("rsa", "-in", str(key), "-pubout", "-out", str(key.with_suffix(".pub"))),
        ):
            subprocess.run(["openssl", *arguments], check=True, capture_output=True)
        tokens = self.folder / "tokens.csv"
        tokens.write_text(f'{self.token},{ADMIN},{ADMIN},"system:masters"\n')
        tokens.chmod(0o600)
        self._write_kubeconfig(self.kubeconfig, ADMIN, {"token": self.token})

    def _write_kubeconfig(self, path: Path, user: str, identity: dict[str, object]) -> None:
        name = "test"
        cluster = {"server": self.url, "certificate-authority": str(self.certificate)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": user, "user": identity}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
            "current-context": name,
        }
        path.write_text(yaml.safe_dump(content))
        path.chmod(0o600)

    def _etcd_command(self) -> list[str]:
        client, peer = (f"http://127.0.0.1:{port}" for port in (self._etcd_port, self._peer_port))
        return [
            str(self.tools.etcd),
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",  # nothing here has to survive a power cut
            "--logger=zap",
            "--log-level=warn",
        ]

    def _apiserver_command(self) -> list[str]:
        key = self.folder / "service-account.key"
        return [
            str(self.tools.apiserver),
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={self.folder / 'certs'}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key.with_suffix('.pub')}",
            f"--service-account-signing-key-file={key}",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--endpoint-reconciler-type=none",
        ]

    def _controllers_command(self, program: Path) -> list[str]:
        return [
            str(program),
            f"--kubeconfig={self.kubeconfig}",
            f"--controllers={','.join(CONTROLLERS)}",
            f"--service-account-private-key-file={self.folder / 'service-account.key'}",
            f"--root-ca-file={self.certificate}",
            "--leader-elect=false",
            "--secure-port=0",
            "--kube-api-qps=500",  # the default of 20 makes a namespace of a few hundred objects a wait
            "--kube-api-burst=1000",
        ]

    def _spawn(self, name: str, command: list[str]) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [*_die_with_parent(), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the test run, which then stops these in order
            )

    def _alive(self, name: str) -> bool:
        return name in self._processes and self._processes[name].poll() is None

    def _end(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait(self, condition: Callable[[], bool], name: str) -> None:
        end = time.monotonic() + START_SECONDS
        while not condition():
            for part, process in self._processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{part} ended with exit code {process.returncode}:\n{self.log(part)}")
            if time.monotonic() > end:
                raise RuntimeError(f"{name} was not ready within {START_SECONDS} s:\n{self.log(name)}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        """Say whether all start-up work is done; `default` is the last namespace that the server makes for itself."""
        return self.certificate.exists() and all(map(self._answers, ("/readyz", "/api/v1/namespaces/default")))

    def _answers(self, path: str) -> bool:
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            reply = requests.get(self.url + path, headers=headers, verify=str(self.certificate), timeout=5)
        except (requests.RequestException, OSError):  # OSError: the certificate is only half written
            return False
        return bool(reply.ok)


def _die_with_parent() -> list[str]:
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []
