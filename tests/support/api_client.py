"""A client of the API server as light as a test under load needs it: what kubectl does, without a process per call."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import requests
from prometheus_client.parser import text_string_to_metric_families

from postgres_writer.core.row import COLUMNS, GROUP, KINDS, POSTGRES_WRITER, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HISTORY_LENGTH = 60

Object = dict[str, Any]


class ApiError(Exception):
    """The API server refused a request; `code` is its HTTP status."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text[:500]}")
        self.code = code


def resource(namespace: str, name: str, /, kind: Kind = POSTGRES_WRITER, **spec: Any) -> Object:
    """Return a resource; fields of the spec that are not given take the sample's values.

    Those of a PostgresWriter's columns become columns of a PostgresRow, unless ``columns`` is given.
    """
    fields = {"table": "students", "name": "alex", "age": 23, "country": "canada", **spec}
    return {
        "apiVersion": f"{GROUP}/{kind.version}",
        "kind": kind.name,
        "metadata": {"namespace": namespace, "name": name},
        "spec": {**_as_columns(fields), **fields} if kind.fixed is None else fields,
    }


def _as_columns(fields: Object) -> Object:
    """Take what are columns out of the fields and return them as spec.columns, if there are any."""
    columns = [{"name": name, "value": fields.pop(name)} for name in COLUMNS if name in fields]
    return {"columns": columns} if columns else {}


def values_of(found: Object) -> Object:
    """Return the values that a resource asks for, by column."""
    spec = found["spec"]
    if "columns" in spec:
        return {column["name"]: column.get("value") for column in spec["columns"]}
    return {name: spec[name] for name in COLUMNS}


def key_of(found: Object) -> str:
    """Return the id of the row that a resource asks for."""
    return f"{KINDS[found['kind']].prefix}{found['metadata']['namespace']}/{found['metadata']['name']}"


def path_of(namespace: str, name: str = "", kind: Kind = POSTGRES_WRITER) -> str:
    """Return the path of a resource, or of the collection of a namespace; without one, that of all namespaces."""
    inside = f"namespaces/{namespace}/" if namespace else ""
    collection = f"/apis/{GROUP}/{kind.version}/{inside}{kind.plural}"
    return f"{collection}/{name}" if name else collection


@dataclass
class ApiClient:
    """HTTP calls with a bearer token; a session per thread, because sessions are not to be shared.

    What is said of a resource by its namespace and name is said of one of ``kind``.
    """

    url: str
    token: str
    verify: str | bool
    kind: Kind = POSTGRES_WRITER
    _local: threading.local = field(default_factory=threading.local)

    def of(self, kind: Kind) -> ApiClient:
        """Return a client for another kind of resources."""
        return replace(self, kind=kind)

    def path(self, namespace: str, name: str = "") -> str:
        """Return the path of a resource or of a collection."""
        return path_of(namespace, name, self.kind)

    def request(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Send one request and return the decoded answer; ApiError from HTTP 400 on, OSError when unreachable."""
        content = options.pop("content_type", "application/json")
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": content}
        data = None if body is None else json.dumps(body)
        response = self._session().request(
            method, self.url + path, data=data, headers=headers, verify=self.verify, timeout=(5, 30), **options
        )
        if response.status_code >= 400:
            raise ApiError(response.status_code, response.text)
        return response.json() if "json" in response.headers.get("Content-Type", "") else response.text

    def manifest(self, namespace: str, name: str, /, **spec: Any) -> Object:
        """Return a resource as `resource()` does, of this client's kind."""
        return resource(namespace, name, self.kind, **spec)

    def create(self, manifest: Object) -> Object:
        """Create a resource."""
        created: Object = self.request("POST", self.path(manifest["metadata"]["namespace"]), manifest)
        return created

    def finalizers_at_birth(self, manifest: Object) -> list[str] | None:
        """Return the finalizers that a new resource would have; None while policies do not know its schema."""
        try:
            born = self.request("POST", f"{self.path(manifest['metadata']['namespace'])}?dryRun=All", manifest)
        except ApiError as error:
            if error.code != 503 or "There can be a delay" not in str(error):
                raise
            return None
        found: list[str] = born["metadata"].get("finalizers", [])
        return found

    def get(self, namespace: str, name: str) -> Object | None:
        """Return a resource, or None."""
        try:
            found: Object = self.request("GET", self.path(namespace, name))
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        return found

    def resources(self, namespace: str = "") -> list[Object]:
        """Return all resources, of one namespace or of all."""
        items: list[Object] = self.request("GET", self.path(namespace))["items"]
        return items

    def every(self) -> list[Object]:
        """Return all resources of all kinds."""
        return [found for kind in KINDS.values() for found in self.of(kind).resources()]

    def merge(self, namespace: str, name: str, patch: Object) -> Object:
        """Apply a JSON merge patch to a resource."""
        changed: Object = self.request(
            "PATCH", self.path(namespace, name), patch, content_type="application/merge-patch+json"
        )
        return changed

    def edit(self, namespace: str, name: str, /, **spec: Any) -> Object:
        """Change fields of the spec of a resource; those that are columns of a PostgresRow beside its other columns."""
        if self.kind.fixed is None and not spec.keys().isdisjoint(COLUMNS):
            values = values_of(self.request("GET", self.path(namespace, name)))
            values |= {column: spec.pop(column) for column in COLUMNS if column in spec}
            spec["columns"] = [{"name": column, "value": value} for column, value in values.items()]
        return self.merge(namespace, name, {"spec": spec})

    def delete(self, namespace: str, name: str) -> None:
        """Delete a resource; one that is gone is all right."""
        self._ignoring(404, "DELETE", self.path(namespace, name))

    def create_namespace(self, name: str) -> None:
        """Create a namespace; one that exists is all right."""
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        self._ignoring(409, "POST", "/api/v1/namespaces", manifest)

    def warnings(self) -> list[str]:
        """Return every Warning event in the cluster as one line each."""
        events = self.request("GET", "/api/v1/events?fieldSelector=type%3DWarning")["items"]
        return [
            f"{event['involvedObject'].get('kind')} {event['involvedObject'].get('namespace', '')}/"
            f"{event['involvedObject'].get('name')}: {event.get('reason')}: {event.get('message')}"
            for event in events
        ]

    def clear_events(self) -> None:
        """Delete every event in the cluster, so that the next look sees only newer ones."""
        for namespace in self.request("GET", "/api/v1/namespaces")["items"]:
            self.request("DELETE", f"/api/v1/namespaces/{namespace['metadata']['name']}/events")

    def writes(self, resource: str = "postgreswriters") -> dict[str, int]:
        """Return how many requests of each kind the API server has answered for a resource since its start.

        The keys are POST, PUT, PUT/status, PATCH and DELETE: the verbs of its own metrics.
        """
        counts: dict[str, int] = defaultdict(int)
        # to parse them all takes a second of CPU
        lines = self.request("GET", "/metrics").splitlines(keepends=True)
        mine = (line for line in lines if line.startswith("apiserver_request_total{") and f'"{resource}"' in line)
        for family in text_string_to_metric_families("".join(mine)):
            for sample in family.samples:
                labels = sample.labels
                if labels["resource"] == resource:
                    subresource = f"/{labels['subresource']}" if labels.get("subresource") else ""
                    counts[labels["verb"] + subresource] += int(sample.value)
        return counts

    def collect_garbage(self) -> None:
        """Let the API server collect its garbage now; https://pkg.go.dev/net/http/pprof."""
        self.request("GET", "/debug/pprof/heap?gc=1")

    def watch(self, since: str, stop: threading.Event) -> Iterator[tuple[str, Object]]:
        """Yield (event type, resource) from a resourceVersion on until the connection ends."""
        query = f"?watch=1&resourceVersion={since}&allowWatchBookmarks=true&timeoutSeconds=300"
        headers = {"Authorization": f"Bearer {self.token}"}
        with requests.get(
            self.url + self.path("") + query, headers=headers, verify=self.verify, stream=True, timeout=(5, 310)
        ) as response:
            if response.status_code != 200:
                raise ApiError(response.status_code, response.text)
            for line in response.iter_lines(chunk_size=None):
                if stop.is_set():
                    return
                if line:
                    event = json.loads(line)
                    yield event["type"], event["object"]

    def follow(
        self,
        take_stock: Callable[[], Object],
        keep: Callable[[str, Object], None],
        stop: threading.Event,
        since: str = "",
    ) -> None:
        """Watch until ``stop`` is set; ``keep`` gets each event's type and resource.

        ``take_stock`` lists what there is and returns the list, at whose version the watch begins: at the start, unless
        ``since`` names a version, and whenever the version is too old.
        """
        while not stop.is_set():
            try:
                since = since or take_stock()["metadata"]["resourceVersion"]
                for kind, found in self.watch(since, stop):
                    if kind == "ERROR":  # the version is too old
                        since = ""
                        break
                    since = found["metadata"]["resourceVersion"]
                    if kind != "BOOKMARK":
                        keep(kind, found)
            except (OSError, ApiError, ValueError):  # the API server is away for a while
                time.sleep(0.2)

    def _ignoring(self, code: int, method: str, path: str, body: Any = None) -> None:
        try:
            self.request(method, path, body)
        except ApiError as error:
            if error.code != code:
                raise

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.trust_env = False
        return session


def _new_history() -> deque[str]:
    return deque(maxlen=_HISTORY_LENGTH)


@dataclass
class Recorder:
    """Watches all resources and keeps what the API server stored: counts, and the latest history of each.

    Every stored version is one event, so `versions()` counts writes that changed something. `setbacks` counts
    statuses that were overwritten by one of an earlier generation. An object is known by the id of its row.

    `vanished` are resources that went although they had a finalizer, without ever being marked for deletion: the API
    server decides on what it read before the finalizer came, and removes the object without looking again
    (k8s.io/apiserver, pkg/registry/generic/registry/store.go, Delete). No controller is asked to finalize them.
    """

    client: ApiClient
    clock: Callable[[], float] = time.monotonic
    setbacks: int = 0
    vanished: list[Object] = field(default_factory=list)
    _marks: deque[str] = field(default_factory=_new_history)
    _latest: dict[str, tuple[str, int]] = field(default_factory=dict)
    _histories: dict[str, deque[str]] = field(default_factory=lambda: defaultdict(_new_history))
    _counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _stop: threading.Event = field(default_factory=threading.Event)
    _start: float = 0.0

    def start(self) -> None:
        """Begin to watch."""
        self._start = self.clock()
        for kind in KINDS.values():
            threading.Thread(target=self._run, args=(self.client.of(kind),), name=kind.plural, daemon=True).start()

    def stop(self) -> None:
        """Stop watching; the threads end with their next event, or with the process."""
        self._stop.set()

    def versions(self, key: str) -> int:
        """Return how many versions of an object (or of all that had its name) were stored."""
        return self._counts[key]

    def history(self, key: str) -> list[str]:
        """Return the latest versions of an object and what was done to the whole, a line each, in their order."""
        return sorted([*self._histories[key], *self._marks])  # they begin with the time, in a fixed width

    def mark(self, text: str) -> None:
        """Add a line to the history of every object: what the test did to the whole."""
        self._marks.append(f"{self.clock() - self._start:9.3f} TEST     {text}")

    def note(self, key: str, text: str) -> None:
        """Add a line of the test's own to an object's history."""
        self._histories[key].append(f"{self.clock() - self._start:9.3f} {text}")

    def _run(self, client: ApiClient) -> None:
        client.follow(lambda: client.request("GET", client.path("")), self._keep, self._stop)

    def _keep(self, kind: str, found: Object) -> None:
        metadata = found["metadata"]
        key = key_of(found)
        self._counts[key] += 1
        self.note(key, f"{kind:8} {summary(found)}")
        if kind == "DELETED" and metadata.get("finalizers") and not metadata.get("deletionTimestamp"):
            self.vanished.append(found)
        uid, generation = metadata["uid"], ready_of(found).get("observedGeneration") or 0
        before_uid, before = self._latest.get(key, ("", 0))
        if uid == before_uid and generation < before:
            self.setbacks += 1
            self.note(key, f"SETBACK  from generation {before} to {generation}")
        self._latest[key] = (uid, generation)


def ready_of(found: Object) -> Object:
    """Return the Ready condition of a resource, or an empty one."""
    conditions = found.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == "Ready"), {})


def summary(found: Object) -> str:
    """Return one line about a resource: what is wanted, what its status says, whether it is going."""
    metadata, status, ready = found["metadata"], found.get("status", {}), ready_of(found)
    return (
        f"rv={metadata['resourceVersion']} uid={metadata['uid'][:8]} generation={metadata['generation']} "
        f"spec={json.dumps(found.get('spec'), sort_keys=True)} tables={status.get('tables')} "
        f"observedTable={status.get('observedTable')} Ready={ready.get('status')}/{ready.get('reason')}"
        f"@{ready.get('observedGeneration')} finalizers={metadata.get('finalizers', [])}"
        f"{' deleting' if metadata.get('deletionTimestamp') else ''}"
    )
