"""Rotation with the real Metacontroller, which reads token and CA only when the spec of its controller changes."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

import pytest

from postgres_writer.server.files import CHECK_SECONDS
from support.api_client import resource
from support.certificates import make_certificate
from support.stack import Stack, Variant

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "postgres-writer-token-2"


@pytest.fixture(params=["composite", "decorator"])
def guarded(stack: Stack, request: pytest.FixtureRequest) -> Iterator[Stack]:
    """Install with TLS and token, and leave the files as they were found."""
    stack.install(Variant(request.param, "v2", secure=True))
    files = {path: path.read_bytes() for path in (stack.folder / name for name in ("tokens", "tls.crt", "tls.key"))}
    stack.wait_for_controller()
    yield stack
    stack.uninstall()
    for path, content in files.items():
        path.write_bytes(content)


def test_token_and_certificate_are_rotated_without_a_refused_call(guarded: Stack) -> None:
    tokens, certificate, key = (guarded.folder / name for name in ("tokens", "tls.crt", "tls.key"))
    old_token, old_authority, new_token = tokens.read_text(), certificate.read_text(), secrets.token_urlsafe(24)
    manifest = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": "default"}}
    guarded.apply(manifest | {"stringData": {"token": new_token}})
    refused = guarded.metacontroller.calls().refused
    syncs("both tokens are accepted", guarded, lambda: tokens.write_text(f"{old_token}\n{new_token}\n"))

    renewed = make_certificate(guarded.folder, "tls-2")
    both = old_authority + renewed.certificate.read_text()
    syncs("the new token is sent, both CAs are trusted", guarded, lambda: control(guarded, both))

    def renew() -> None:
        key.write_bytes(renewed.key.read_bytes())
        certificate.write_bytes(renewed.certificate.read_bytes())

    syncs("the server shows the new certificate", guarded, renew)
    syncs("the old CA is trusted no more", guarded, lambda: control(guarded, renewed.certificate.read_text()))
    syncs("the old token is accepted no more", guarded, lambda: tokens.write_text(f"{new_token}\n"))
    assert guarded.metacontroller.calls().refused == refused


def control(stack: Stack, authorities: str) -> None:
    """Let the controller send the new token and trust these CAs."""
    manifest: dict[str, Any] = stack.controller(stack.address)
    for hook in manifest["spec"]["hooks"].values():
        hook["webhook"]["authorization"]["secretRef"]["name"] = SECRET
        hook["webhook"]["caBundle"]["inline"] = authorities
    stack.apply(manifest)


def syncs(step: str, stack: Stack, change: Any) -> None:
    """Make a change, wait until the server has checked its files, and see that a new resource is synced."""
    change()
    time.sleep(2 * CHECK_SECONDS + 0.5)
    name = "-".join(step.replace(",", "").lower().split())
    stack.client.create(resource("default", name))
    stack.wait_ready("default", name, "True/RowSynced@1")
