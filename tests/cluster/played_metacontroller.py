"""A stand-in that does to resources what Metacontroller does, for tests of install and uninstall procedures.

It follows the controllers that are installed: for each CompositeController and DecoratorController it adds its
finalizer, calls the hooks with the token of the Secret, writes status and removes the finalizer, in the order of
Metacontroller's own source. The tests of tests/e2e run the real one.
"""

from __future__ import annotations

import base64
import contextlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import requests

from postgres_writer.core.row import GROUP, KINDS, Kind
from support.api_client import ApiClient, ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.apiserver import ApiServer

_CONTROLLERS = "/apis/metacontroller.k8s.io/v1alpha1"
_PAUSE = 0.1
_PASSING = (404, 409, 422)
"""What a race with a user's own change looks like; the next round sees the new state."""

Object = dict[str, Any]


@dataclass
class PlayedMetacontroller:
    """One process that serves all installed controllers; `hooks` is the address of the hook server."""

    api: ApiClient
    hooks: str
    errors: list[str] = field(default_factory=list)
    at_work: list[frozenset[str]] = field(default_factory=list)
    """Which kinds were installed, round by round, as long as there were resources."""

    def round(self) -> None:
        """Look once at every controller and every resource of its kinds."""
        controllers = [(kind, item) for kind in ("composite", "decorator") for item in self._controllers(kind)]
        resources = {kind.plural: self._resources(kind) for kind in KINDS.values()}
        if any(resources.values()):
            self.at_work.append(frozenset(kind for kind, _ in controllers))
        for kind, controller in controllers:
            spec = controller["spec"]
            rules = spec["resources"] if kind == "decorator" else [spec["parentResource"]]
            for resource in [item for rule in rules for item in resources[rule["resource"]]]:
                try:
                    self._sync(kind, controller, resource)
                except ApiError as error:
                    if error.code not in _PASSING:
                        raise

    def _sync(self, kind: str, controller: Object, resource: Object) -> None:
        finalizer = f"metacontroller.io/{kind}controller-{controller['metadata']['name']}"
        metadata = resource["metadata"]
        deleting = "deletionTimestamp" in metadata
        if not deleting and finalizer not in metadata.get("finalizers", []):
            metadata.setdefault("finalizers", []).append(finalizer)
            resource = self._put(resource)
        answer = self._call("finalize" if deleting else "sync", kind, controller, resource)
        if answer["status"] is not None and answer["status"] != resource.get("status"):
            resource = self._put({**resource, "status": answer["status"]}, "/status")
        if answer["finalized"] and finalizer in resource["metadata"].get("finalizers", []):
            resource["metadata"]["finalizers"].remove(finalizer)
            self._put(resource)

    def _call(self, hook: str, kind: str, controller: Object, resource: Object) -> Object:
        webhook = controller["spec"]["hooks"][hook]["webhook"]
        is_composite = kind == "composite"
        body = {
            "controller": controller,
            "parent" if is_composite else "object": resource,
            "children" if is_composite else "attachments": {},
            "related": {},
            "finalizing": hook == "finalize",
        }
        headers = self._authorization(webhook)
        answered = requests.post(self.hooks + webhook["path"], json=body, headers=headers, timeout=60)
        assert answered.status_code == 200, f"{hook}: {answered.status_code} {answered.text}"
        answer: Object = answered.json()
        return answer

    def _authorization(self, webhook: Object) -> dict[str, str]:
        if "authorization" not in webhook:
            return {}
        where = webhook["authorization"]["secretRef"]
        secret = self.api.request("GET", f"/api/v1/namespaces/{where['namespace']}/secrets/{where['name']}")
        token = base64.b64decode(secret["data"][where["key"]]).decode().strip()
        return {"Authorization": f"{webhook['authorization']['type']} {token}"}

    def _controllers(self, kind: str) -> list[Object]:
        return self._items(f"{_CONTROLLERS}/{kind}controllers")

    def _resources(self, kind: Kind) -> list[Object]:
        return self._items(f"/apis/{GROUP}/{kind.version}/{kind.plural}")

    def _items(self, path: str) -> list[Object]:
        try:
            listed = self.api.request("GET", path)
        except ApiError as error:
            if error.code == 404:  # the kind itself is gone
                return []
            raise
        # a list leaves these two out of its items
        kind = listed["kind"].removesuffix("List")
        return [{"apiVersion": listed["apiVersion"], "kind": kind, **item} for item in listed["items"]]

    def _put(self, resource: Object, subresource: str = "") -> Object:
        metadata, plural = resource["metadata"], KINDS[resource["kind"]].plural
        path = f"/apis/{resource['apiVersion']}/namespaces/{metadata['namespace']}/{plural}/{metadata['name']}"
        changed: Object = self.api.request("PUT", f"{path}{subresource}?fieldManager=metacontroller", resource)
        return changed


@contextlib.contextmanager
def playing(server: ApiServer, hooks: str) -> Iterator[PlayedMetacontroller]:
    """Play Metacontroller in a thread for the length of a with-block; whatever went wrong there fails the test."""
    player = PlayedMetacontroller(ApiClient(server.url, server.token, str(server.certificate)), hooks)
    stop = threading.Event()

    def play() -> None:
        while not stop.wait(_PAUSE):
            try:
                player.round()
            except Exception as error:  # reported by the test's own thread
                player.errors.append(repr(error))

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield player
    finally:
        stop.set()
        thread.join()
    assert not player.errors, player.errors
