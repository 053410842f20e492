"""Where the audit reads resources in a pod: the Kubernetes API itself, with the token of the pod's service account."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from postgres_writer.audit.resources import RESYNC_ANNOTATION, Kubectl, Manifest, Source, api_path
from postgres_writer.config.variables import text_of
from postgres_writer.core.audit_result import RESULT_KEY, AuditResult
from postgres_writer.core.response import timestamp
from postgres_writer.core.row import owner_of
from postgres_writer.errors import AuditError, ListExpired

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes puts them: https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/"""
# seconds to connect, and to wait for more of an answer
# https://requests.readthedocs.io/en/latest/user/advanced/#timeouts
_TIMEOUT = (5, 60)


class Cluster(Source):
    """The API server of the pod's cluster; a Source."""

    def __init__(self, environ: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> None:
        """Prepare for requests from a pod: ``is_here`` has said that it is one."""
        host, port = environ["KUBERNETES_SERVICE_HOST"], environ.get("KUBERNETES_SERVICE_PORT", "443")
        self._url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._folder = folder
        self._session = requests.Session()
        # a proxy or a .netrc of the environment is not for the API server
        self._session.trust_env = False
        self._session.verify = str(folder / "ca.crt")
        # decompression would cost more than the bytes on the cluster's network
        self._session.headers.update({"Accept": "application/json", "Accept-Encoding": "identity"})
        # of what is sent, which is a patch
        self._session.headers["Content-Type"] = "application/merge-patch+json"
        self._session.auth = self._authorize
        # what the API server refuses for the moment (overload, a restart) is tried again, later each time
        refused, methods = (429, 500, 502, 503, 504), ("GET", "PATCH")
        retry = Retry(5, backoff_factor=0.5, status_forcelist=refused, allowed_methods=methods, raise_on_status=False)
        self._session.mount("https://", HTTPAdapter(max_retries=retry))

    @staticmethod
    def is_here(environ: Mapping[str, str], folder: Path = SERVICE_ACCOUNT) -> bool:
        """Say whether this process runs in a pod with a service account's token."""
        return bool(environ.get("KUBERNETES_SERVICE_HOST")) and (folder / "token").exists()

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def read(self, path: str, parameters: dict[str, Any] | None = None) -> Manifest:
        """Return what the API answers to a GET; raises as ``pages`` does."""
        return _object(self._send("GET", path, params=parameters))

    def get(self, row_id: str) -> Manifest | None:
        """Return the resource whose row has that id as it is now, None when there is none."""
        return self._send_to(row_id, "GET")

    def request_sync(self, row_ids: Iterable[str]) -> int:
        """Ask Metacontroller for a sync of the resources, one by one."""
        patch = {"metadata": {"annotations": {RESYNC_ANNOTATION: timestamp(time.time())}}}
        number = 0
        for row_id in row_ids:
            # one that was deleted meanwhile needs no sync
            self._send_to(row_id, "PATCH", json=patch)
            number += 1
        return number

    def describe(self) -> str:
        """Return which cluster it is, for people."""
        return f"{self._url}, as the service account of this pod"

    def store(self, name: str, result: AuditResult) -> None:
        """Put the result into a ConfigMap in the pod's namespace. Raises AuditError when it is not there or refused."""
        namespace = self._read("namespace")
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/configmaps/{quote(name, safe='')}"
        # of that key alone: what other clients keep beside it stays
        _object(self._send("PATCH", path, json={"data": {RESULT_KEY: result.to_json()}}))

    def _send_to(self, row_id: str, method: str, **arguments: Any) -> Manifest | None:
        """Return what the API answers about the resource of a row, None when there is none."""
        kind, namespace, name = owner_of(row_id)
        response = self._send(method, f"{api_path(kind, namespace)}/{quote(name, safe='')}", **arguments)
        # a missing kind has the same code: another cluster, or a deleted CustomResourceDefinition
        if response.status_code == requests.codes.not_found:
            details = _body(response).get("details")
            if isinstance(details, dict) and (details.get("kind"), details.get("name")) == (kind.plural, name):
                return None
        return _object(response)

    def _send(self, method: str, path: str, **arguments: Any) -> requests.Response:
        try:
            return self._session.request(method, self._url + path, timeout=_TIMEOUT, **arguments)
        except requests.exceptions.SSLError as error:
            raise AuditError(f"The certificate of the API server at {self._url} is not signed by ca.crt.") from error
        except (requests.RequestException, OSError) as error:
            raise AuditError(f"No answer from the API server at {self._url} ({type(error).__name__}).") from error

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # read again each time: Kubernetes replaces the file before the token expires
        request.headers["Authorization"] = f"Bearer {self._read('token')}"
        return request

    def _read(self, name: str) -> str:
        return text_of(f"The service account's {name}", self._folder / name).strip()


def source_of(environ: Mapping[str, str], context: str | None = None, folder: Path = SERVICE_ACCOUNT) -> Source:
    """Return the API itself in a pod, kubectl elsewhere and for a context."""
    in_pod = context is None and Cluster.is_here(environ, folder)
    return Cluster(environ, folder) if in_pod else Kubectl(context)


def _object(response: requests.Response) -> Manifest:
    """Return the object of an answer. Raises ListExpired or AuditError for what is none."""
    body = _body(response)
    if response.ok and body:
        return body
    why = " ".join(str(body.get("message") or "").split()).rstrip(".") or response.reason
    sentence = f"The API server answered {response.status_code}: {why}"
    if response.status_code == requests.codes.gone:
        raise ListExpired(f"{sentence}.")
    raise AuditError(f"{sentence}.")


def _body(response: requests.Response) -> Manifest:
    """Return the object of an answer, an empty one where there is none."""
    body = None
    with contextlib.suppress(ValueError):
        body = json.loads(response.content)
    return body if isinstance(body, dict) else {}
