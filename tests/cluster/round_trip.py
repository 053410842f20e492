"""A round trip of a status: object as the API server gives it -> hook -> status subresource -> read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from support.payloads import payload

if TYPE_CHECKING:
    from support.custom_resource import Resource
    from support.server import ServerProcess


WRITTEN: list[dict[str, Any]] = []
"""Every object as it was stored with a status that a hook server answered."""


@dataclass
class RoundTrip:
    """One resource on a real API server and the hook server that speaks about it."""

    resource: Resource
    hooks: ServerProcess
    controller: str = "composite"

    def sync(self, before_the_call: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Call sync for the object as stored, write the status it answers, and return it."""
        return self._step("sync", before_the_call)

    def finalize(self) -> dict[str, Any]:
        """Call finalize likewise."""
        return self._step("finalize")

    def _step(self, hook: str, before_the_call: Callable[[], None] = lambda: None) -> dict[str, Any]:
        stored = self.resource.get()
        request = payload(stored, self.controller, finalizing=hook == "finalize")
        before_the_call()
        reply = self.hooks.post(hook, request, timeout=60)
        assert reply.status_code == 200, reply.text
        status: dict[str, Any] = reply.json()["status"]
        written = write_statuses(self.resource, [{**stored, "status": status}])[0]
        assert as_bytes(written["status"]) == as_bytes(status), "the API server stored another status"
        return status


def write_statuses(anyone: Resource, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Replace the statuses of objects as Metacontroller does, with unknown fields refused; return what is stored.

    Metacontroller replaces the whole object on the status subresource; so does this, in one kubectl call.
    """
    content = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    anyone.kubectl("replace", "--subresource=status", "--validate=strict", "--filename=-", input=content)
    found = json.loads(anyone.kubectl("get", anyone.resource, "--output=json").stdout)[
        "items"
    ]  # one request, not one per name
    stored = {item["metadata"]["name"]: item for item in found}
    written = [stored[item["metadata"]["name"]] for item in objects]
    WRITTEN.extend(written)
    return written


def as_bytes(status: dict[str, Any]) -> bytes:
    """Return the status in one spelling; the order of keys is the only thing that JSON does not keep."""
    return json.dumps(status, sort_keys=True).encode()


def ready(status: dict[str, Any]) -> tuple[str, str]:
    """Return status and reason of the condition Ready."""
    found = next(entry for entry in status["conditions"] if entry["type"] == "Ready")
    return found["status"], found["reason"]
