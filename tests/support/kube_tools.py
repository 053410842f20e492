"""The programs of a real API server: found in KUBEBUILDER_ASSETS, or built once and cached.

`find_tools()` gives etcd, kube-apiserver, kubectl and kube-controller-manager, all of one Kubernetes version except
etcd, which is taken from PATH (Debian's etcd-server). The build is an ordinary one of Go modules: a go.mod that
requires k8s.io/kubernetes and replaces every staging module (required there at v0.0.0) by its published version.
It takes 4 to 8 minutes on 2 cores, once; the result is in
${XDG_CACHE_HOME:-$HOME/.cache}/postgres-writer/kube-v<version>/. `find_kube_state_metrics()` builds that program in the
same way, in about a minute.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from support.programs import ProgramMissing, find_program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

KUBERNETES: Final = "1.36.3"
KUBE_STATE_METRICS: Final = "2.18.0"
HELM: Final = {3: "3.22.0", 4: "4.3.1"}
PROGRAMS: Final = ("kube-apiserver", "kubectl", "kube-controller-manager")
HOW_TO_GET_THEM: Final = (
    "Install go (1.26 or newer) and etcd (Debian: etcd-server), or point KUBEBUILDER_ASSETS to a folder with etcd, "
    "kube-apiserver and kubectl (setup-envtest makes one)."
)


@dataclass(frozen=True)
class Tools:
    """Where the programs are; `controller_manager` is None when KUBEBUILDER_ASSETS has none."""

    etcd: Path
    apiserver: Path
    kubectl: Path
    controller_manager: Path | None


def find_tools() -> Tools:
    """Return the programs, building them when there is no other way.

    Raises `ProgramMissing` when they are neither here nor can be built, and `subprocess.CalledProcessError` when the
    build fails.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    folder = Path(assets) if assets else _cached(f"kube-v{KUBERNETES}", PROGRAMS, _build_kubernetes)
    missing = [name for name in PROGRAMS[:2] if not (folder / name).is_file()]
    if missing:
        raise ProgramMissing(f"KUBEBUILDER_ASSETS={folder} lacks {' and '.join(missing)}. {HOW_TO_GET_THEM}")
    manager = folder / "kube-controller-manager"
    return Tools(
        etcd=_etcd(folder),
        apiserver=folder / "kube-apiserver",
        kubectl=folder / "kubectl",
        controller_manager=manager if manager.is_file() else None,
    )


def find_kube_state_metrics() -> Path:
    """Return kube-state-metrics, building it when it is not in the cache; the errors are those of `find_tools()`."""
    name = "kube-state-metrics"
    return _cached(f"{name}-v{KUBE_STATE_METRICS}", (name,), _build_kube_state_metrics) / name


def find_helm(major: int) -> Path:
    """Return Helm of that major version, building it when it is not in the cache, as `find_kube_state_metrics()`."""

    def build(work: Path, result: Path) -> None:
        _build_module(work, result / "helm", f"helm.sh/helm/v{major}", HELM[major], "/cmd/helm")

    return _cached(f"helm-v{HELM[major]}", ("helm",), build) / "helm"


def _etcd(assets: Path) -> Path:
    if (assets / "etcd").is_file():
        return assets / "etcd"
    try:
        return Path(find_program("etcd", "etcd-server"))
    except ProgramMissing as exc:
        raise ProgramMissing(f"{exc} {HOW_TO_GET_THEM}") from exc


def _cached(name: str, programs: Sequence[str], build: Callable[[Path, Path], None]) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "postgres-writer"
    folder = cache / name

    def complete() -> bool:
        return all((folder / program).is_file() for program in programs)

    if complete():
        return folder
    if shutil.which("go") is None:
        raise ProgramMissing(f"{programs[0]} is not here, and go is not on PATH to build it. {HOW_TO_GET_THEM}")
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache / f"{name}.lock"):
        if not complete():  # another run may have built it while this one waited
            _build_into(folder, build)
    return folder


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build_into(folder: Path, build: Callable[[Path, Path], None]) -> None:
    """Build in a folder beside and rename, so that a build that was cut off leaves nothing that looks ready."""
    print(f"building {folder.name} with go: once, for some minutes", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.build.") as temporary:
        work = Path(temporary)
        result = work / "bin"
        result.mkdir()
        build(work, result)
        shutil.copy(work / "go.mod", result)
        shutil.copy(work / "go.sum", result)
        shutil.rmtree(folder, ignore_errors=True)
        result.rename(folder)


def _build_kubernetes(work: Path, result: Path) -> None:
    _write_go_mod(work)
    packages = [f"k8s.io/kubernetes/cmd/{name}" for name in PROGRAMS]
    _go(work, "build", "-mod=mod", "-trimpath", "-ldflags", _ldflags(), "-o", f"{result}/", *packages)


def _build_kube_state_metrics(work: Path, result: Path) -> None:
    _build_module(work, result / "kube-state-metrics", "k8s.io/kube-state-metrics/v2", KUBE_STATE_METRICS)


def _build_module(work: Path, program: Path, module: str, version: str, package: str = "") -> None:
    _go(work, "mod", "init", f"{program.name}-tools")
    _go(work, "mod", "edit", f"-require={module}@v{version}")
    _go(work, "build", "-mod=mod", "-trimpath", "-ldflags=-s -w", "-o", str(program), f"{module}{package}")


def _write_go_mod(work: Path) -> None:
    _go(work, "mod", "init", "kube-tools")
    main = f"k8s.io/kubernetes@v{KUBERNETES}"
    upstream = json.loads(_go(work, "mod", "download", "-json", main))["GoMod"]
    staging = f"v0.{KUBERNETES.split('.', 1)[1]}"
    replaces = [
        f"-replace={needed['Path']}={needed['Path']}@{staging}"
        for needed in json.loads(_go(work, "mod", "edit", "-json", upstream))["Require"]
        if needed["Version"] == "v0.0.0"
    ]
    _go(work, "mod", "edit", f"-require={main}", *replaces)


def _ldflags() -> str:
    """Strip the programs and make them say their version, which a plain `go build` leaves at v0.0.0-master."""
    major, minor, _ = KUBERNETES.split(".")
    values = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(["-s -w", *(f"-X {p}.{key}={value}" for p in packages for key, value in values.items())])


def _go(work: Path, *arguments: str) -> str:
    environment = {**os.environ, "CGO_ENABLED": "0"}
    done = subprocess.run(["go", *arguments], cwd=work, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout
