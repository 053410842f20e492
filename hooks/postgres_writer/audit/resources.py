"""Where the audit reads resources: a list that kubectl printed, or kubectl itself, page by page.

`kubectl get -o json` holds the whole list in memory before it prints anything, so its pages are asked for instead.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, Protocol, TypeVar
from urllib.parse import quote, urlencode

from postgres_writer.core.response import timestamp
from postgres_writer.core.row import GROUP, KINDS, Kind, owner_of
from postgres_writer.database.dial import in_thread
from postgres_writer.errors import AuditError, ListExpired

RESYNC_ANNOTATION = "demo.yash.com/resync-requested"
PAGE = 1000
Manifest = dict[str, Any]
T = TypeVar("T")
_NAMES_PER_CALL = 200  # with up to 253 characters so many fit on a command line of Linux and macOS
_HOW = "use the output of `kubectl get pgw,pgr -A -o json`."
NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_PREFIXES = "|".join(kind.prefix for kind in KINDS.values())
ID = re.compile(rf"(?:{_PREFIXES}){NAMESPACE.pattern}/[a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?")
"""What the id of a resource's row looks like: <namespace>/<name>, with the prefix of its kind."""


def from_file(file: IO[bytes]) -> Iterator[list[Manifest]]:
    """Yield the resources of a printed list as ``Source.pages`` does.

    Raises AuditError when it is not a list: an empty or broken file must not make every row look orphaned.
    """
    try:
        listed = json.loads(file.read())
    except OSError as error:
        raise AuditError(f"The list of resources cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise AuditError(f"The list of resources is not complete JSON: {_HOW}") from error
    items = listed.get("items") if isinstance(listed, dict) else None
    if not isinstance(items, list) or listed.get("kind") not in {"List", *(f"{name}List" for name in KINDS)}:
        raise AuditError(f"The file is not a list of resources: {_HOW}")
    yield items


def ahead(pages: Iterator[T]) -> Iterator[T]:
    """Yield what ``pages`` yields, while a thread is already reading the next one."""
    read = partial(next, pages, None)
    # one page ahead: more would only take memory
    following = in_thread(read)
    while (page := following.result()) is not None:
        following = in_thread(read)
        yield page


def api_path(kind: Kind, namespace: str | None) -> str:
    """Return the path of the API for the resources of a kind, in one namespace or all."""
    scope = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    return f"/apis/{GROUP}/{kind.version}{scope}/{kind.plural}"


class Source(Protocol):
    """Where the resources of a cluster are read, and asked to be synced."""

    def pages(
        self, namespace: str | None = None, page: int = PAGE, kinds: Iterable[Kind] = KINDS.values()
    ) -> Iterator[list[Manifest]]:
        """Yield the resources of all namespaces or of one, page by page, one kind after the other.

        Raises ListExpired when it took too long, AuditError when the API cannot be read.
        """
        for kind in kinds:
            parameters: dict[str, Any] = {"limit": page}
            while "continue" not in parameters or parameters["continue"]:
                answer = self.read(api_path(kind, namespace), parameters)
                yield answer.get("items") or []
                parameters["continue"] = (answer.get("metadata") or {}).get("continue")

    def read(self, path: str, parameters: dict[str, Any]) -> Manifest:
        """Return what the API answers to a GET; raises as ``pages`` does."""

    def get(self, row_id: str) -> Manifest | None:
        """Return the resource whose row has that id as it is now, None when there is none."""

    def request_sync(self, row_ids: Iterable[str]) -> int:
        """Have the hook called, by an annotation, for the resources of these rows, in their order; gives how many."""

    def describe(self) -> str:
        """Return which cluster it is, for people."""

    def close(self) -> None:
        """Close the connections."""


@dataclass(frozen=True)
class Kubectl(Source):
    """kubectl, for one context (None: the current one)."""

    context: str | None = None

    def read(self, path: str, parameters: dict[str, Any]) -> Manifest:
        """Return what the API answers to a GET; raises as ``pages`` does."""
        answer: Manifest = json.loads(self._run("get", "--raw", f"{path}?{urlencode(parameters)}"))
        return answer

    def get(self, row_id: str) -> Manifest | None:
        """Return the resource whose row has that id as it is now, None when there is none."""
        kind, namespace, name = owner_of(row_id)
        # not forever: the row is locked meanwhile
        limits = ("--ignore-not-found", "--request-timeout=30s")
        printed = self._run("get", f"{kind.plural}.{GROUP}", name, "--namespace", namespace, *limits, "-o", "json")
        return json.loads(printed) if printed.strip() else None

    def request_sync(self, row_ids: Iterable[str]) -> int:
        """Ask Metacontroller for a sync of the resources, many of a namespace at once."""
        number = 0
        owners = map(owner_of, row_ids)
        for (plural, namespace), group in itertools.groupby(owners, key=lambda owner: (owner[0].plural, owner[1])):
            while some := [name for _, _, name in itertools.islice(group, _NAMES_PER_CALL)]:
                annotation = f"{RESYNC_ANNOTATION}={timestamp(time.time())}"
                where = ("--namespace", namespace, "--overwrite")
                self._run("annotate", f"{plural}.{GROUP}", *some, *where, annotation)
                number += len(some)
        return number

    def describe(self) -> str:
        """Return the context that is in use, for people."""
        return self.context or self._run("config", "current-context").decode().strip()

    def close(self) -> None:
        """Do nothing: no kubectl outlives its answer."""

    def _run(self, *arguments: str) -> bytes:
        command = ["kubectl", *(["--context", self.context] if self.context else []), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)  # noqa: S603
        except OSError as error:
            raise AuditError("kubectl is not on PATH: install it, or give its output as FILE.") from error
        if done.returncode == 0:
            return done.stdout
        said = " ".join(done.stderr.decode(errors="replace").split()) or f"exit code {done.returncode}"
        # kubectl passes on the text of the API server, but not its status 410
        if "--raw" in arguments and "continue parameter is too old" in said:
            raise ListExpired(f"kubectl failed: {said}.")
        raise AuditError(f"kubectl failed: {said.rstrip('.')}.")
