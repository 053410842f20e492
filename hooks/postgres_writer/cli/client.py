"""`postgres-writer sync` and `finalize`: call the hooks with manifests, as Metacontroller would.

For development: in a cluster only Metacontroller may call the hooks, because it serialises the calls for one
object and writes back the status on which the next one relies.
"""

import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import requests
import yaml

from postgres_writer.cli.commands import Command, NotDone, in_columns
from postgres_writer.config.variables import certificates
from postgres_writer.core.response import timestamp
from postgres_writer.core.row import GROUP, KINDS, POSTGRES_WRITER
from postgres_writer.deadlines import CONNECTION_SECONDS
from postgres_writer.errors import ConfigError, PostgresWriterError
from postgres_writer.server.files import load_tokens
from postgres_writer.telemetry.logs import printable

EXAMPLES = """\
examples:
  postgres-writer {command} k8s/samples/sample-student.yaml
  kubectl get pgw sample-student -o yaml | postgres-writer {command} - --force
  postgres-writer {command} request.json -o json --url https://localhost:8443 --token-file token --ca-file ca.crt

exit codes: 0 all {goal}, 1 not all, or the output cannot be written, 2 wrong arguments or input, 130 interrupted
"""


class _Loader(yaml.SafeLoader):
    """YAML as kubectl reads it: what looks like a date is a text, because JSON has no dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - yaml's own attribute
        first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


@dataclass(frozen=True)
class Answer:
    """What the hook said about one object; ``condition`` is (status, reason, message) of Ready."""

    request: dict[str, Any]
    condition: tuple[str, str, str]
    body: dict[str, Any]
    done: bool


class HookClient:
    """Speaks to a hook server over one kept-alive connection."""

    def __init__(self, url: str, token_file: Path | None = None, ca_file: str | None = None) -> None:
        """Prepare for calls of the server. Raises ConfigError when a file is unusable."""
        self._url = url.rstrip("/")
        self._session = requests.Session()
        if ca_file is not None:
            certificates("--ca-file", ca_file)
        # the variables of the shell (proxies, .netrc) are for other servers
        self._session.trust_env = False
        self._session.verify = ca_file or True
        if token_file is not None:
            token = load_tokens(token_file, "--token-file")[0].decode()
            self._session.headers["Authorization"] = f"Bearer {token}"

    def close(self) -> None:
        """Close the connection; a stopping server need not wait for another request on it."""
        self._session.close()

    def is_ready(self) -> bool:
        """Say whether the server answers that it is ready."""
        try:
            return self._session.get(f"{self._url}/readyz", timeout=1).ok
        except requests.RequestException:
            return False

    def call(self, hook: str, request: dict[str, Any]) -> Answer:
        """Send a hook request; an answer other than 200 becomes an Answer that says so.

        Raises NotDone when the server cannot be reached, ConfigError when the URL is none.
        """
        try:
            response = self._session.post(f"{self._url}/{hook}", json=request, timeout=CONNECTION_SECONDS)
        except ValueError as error:
            # of requests for what it cannot send at all, and of the libraries under it
            raise ConfigError(f"--url must be the http:// or https:// URL of the server, not {self._url!r}.") from error
        except requests.RequestException as error:
            raise NotDone(f"No answer from {self._url} ({type(error).__name__}): is it serving?") from error
        body = {}
        with contextlib.suppress(ValueError):
            body = _mapping(response.json())
        if response.status_code != requests.codes.ok:
            detail = str(body.get("detail") or body.get("title") or response.reason)
            return Answer(request, ("False", f"HTTP{response.status_code}", detail), body, done=False)
        condition = ready_condition(_mapping(body.get("status")))
        if body.get("finalized") is True and body.get("status") == the_object(request).get("status"):
            # the status was echoed, as for an object that is about to vanish: it speaks of the time before
            condition = ("", "Finalized", "The resource is released.")
        done = body.get("finalized") is True if hook == "finalize" else condition[0] == "True"
        return Answer(request, condition, body, done)


def _mapping(value: object) -> dict[str, Any]:
    """Return the value where it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def ready_condition(status: dict[str, Any]) -> tuple[str, str, str]:
    """Return (status, reason, message) of the condition Ready; blanks when there is none."""
    conditions = status.get("conditions")
    for condition in map(_mapping, conditions if isinstance(conditions, list) else []):
        if condition.get("type") == "Ready":
            return str(condition.get("status")), str(condition.get("reason")), str(condition.get("message"))
    return "", "", ""


def the_object(request: dict[str, Any]) -> dict[str, Any]:
    """Return the object that a hook request is about, of either kind of controller."""
    return _mapping(request.get("parent") or request.get("object"))


def requests_of(text: str, *, force: bool) -> Iterator[dict[str, Any]]:
    """Yield a hook request for each document: manifests are wrapped, whole requests sent as they are.

    Raises PostgresWriterError for what is neither, and for objects from a cluster unless forced.
    """
    try:
        documents = [document for document in yaml.load_all(text, _Loader) if document is not None]
        # what YAML has and JSON has not: .nan, !!binary, !!set, an anchor inside itself
        json.dumps(documents, allow_nan=False)
    except Exception as error:
        # anything, for a value that does not fit its tag, a number that is too long, brackets too deep
        raise PostgresWriterError(f"The input is neither YAML nor JSON: {' '.join(str(error).split())}.") from error
    if not documents:
        raise PostgresWriterError("The input contains no manifest.")
    for document in itertools.chain.from_iterable(map(_listed, documents)):
        request = as_request(document)
        metadata = _mapping(the_object(request).get("metadata"))
        if metadata.get("uid") and not force:
            raise PostgresWriterError(
                f"{metadata.get('namespace')}/{metadata.get('name')} has a uid, so it exists in a cluster, where only "
                "Metacontroller may call the hooks: use kubectl, or --force if no controller manages it."
            )
        yield request


def _listed(document: Any) -> list[Any]:
    # `kubectl get -o yaml` prints several objects as one List
    if not isinstance(document, dict) or document.get("kind") != "List":
        return [document]
    items = document.get("items") or []
    return items if isinstance(items, list) else [items]


def as_request(document: Any) -> dict[str, Any]:
    """Return the hook request for a manifest, or the document itself where it is one."""
    if not isinstance(document, dict):
        raise PostgresWriterError(f"A document is not an object but a {type(document).__name__}.")
    if "parent" in document or "object" in document:
        return document
    kind, group = KINDS.get(str(document.get("kind"))), str(document.get("apiVersion")).partition("/")[0]
    if kind is None or group != GROUP:
        raise PostgresWriterError(f"A document is of kind {document.get('kind')}, not {' or '.join(KINDS)} of {GROUP}.")
    # the API server would fill these in
    filled = {"namespace": "default", "generation": 1, **_mapping(document.get("metadata"))}
    about = {"controller": {"metadata": {"name": kind.controller}}, "parent": {**document, "metadata": filled}}
    return {**about, "children": {}, "related": {}, "finalizing": False}


def finalizing(request: dict[str, Any]) -> dict[str, Any]:
    """Return the request as it would be after a `kubectl delete`."""
    key, kind = ("parent", "composite") if "parent" in request else ("object", "decorator")
    name = _mapping(_mapping(request.get("controller")).get("metadata")).get("name")
    resource = the_object(request)
    known = KINDS.get(str(resource.get("kind")), POSTGRES_WRITER).controller
    finalizer = f"metacontroller.io/{kind}controller-{name if isinstance(name, str) else known}"
    metadata = _mapping(resource.get("metadata"))
    # an object that is being deleted already keeps its own time and finalizers
    deleted = {"deletionTimestamp": timestamp(time.time()), "deletionGracePeriodSeconds": 0, "finalizers": [finalizer]}
    return {**request, key: {**resource, "metadata": {**deleted, **metadata}}, "finalizing": True}


def render(answers: list[Answer], output: str) -> str:
    """Return the answers as kubectl would print them."""
    bodies = [answer.body for answer in answers]
    if output == "json":
        return json.dumps(bodies[0] if len(bodies) == 1 else bodies, indent=2) + "\n"
    if output == "yaml":
        return yaml.safe_dump_all(bodies, sort_keys=False)
    rows: list[tuple[str, ...]] = [("NAMESPACE", "NAME", "TABLE", "READY", "REASON", "MESSAGE")]
    for answer in answers:
        resource = the_object(answer.request)
        metadata, spec = _mapping(resource.get("metadata")), _mapping(resource.get("spec"))
        about = (metadata.get("namespace", ""), metadata.get("name", ""), spec.get("table", ""))
        rows.append((*map(printable, map(str, about)), *map(printable, answer.condition)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(in_columns(row, widths) for row in rows)


def read_manifests(name: str) -> str:
    """Return the text of a file, - is standard input. Raises PostgresWriterError when it cannot be read."""
    try:
        with click.open_file(name, encoding="utf-8") as file:
            return str(file.read())
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", "not UTF-8")
        raise PostgresWriterError(f"The manifest cannot be read: {name} ({why}).") from error


def _command(hook: str, goal: str, more: str = "") -> click.Command:
    @click.command(
        hook,
        cls=Command,
        help=f"Call the {hook} hook with the manifests of FILE, in YAML or JSON, or with a whole hook request; - is "
        "standard input. For development: in a cluster only Metacontroller calls the hooks.\n\n"
        "A manifest without a status is treated as new; put the returned status (-o yaml) into the manifest for the "
        f"next call.{more}",
        epilog=EXAMPLES.format(command=hook, goal=goal),
    )
    @click.argument("file", type=click.Path(allow_dash=True))
    @click.option("--url", default="http://127.0.0.1:8080", help="URL of the server. Proxies are not used.")
    @click.option("--token-file", type=Path, metavar="FILE", help="File with bearer tokens; the first one is sent.")
    @click.option("--ca-file", type=click.Path(), metavar="FILE", help="CA bundle that verifies the server.")
    @click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", help="The format.")
    @click.option("--force", is_flag=True, help="Also send objects that exist in a cluster.")
    def command(file: str, output: str, *, force: bool, **server: Any) -> int:
        found = list(requests_of(read_manifests(file), force=force))
        client = HookClient(**server)
        answers = [client.call(hook, finalizing(each) if hook == "finalize" else each) for each in found]
        click.echo(render(answers, output), nl=False)
        return int(not all(answer.done for answer in answers))

    return command


sync = _command("sync", "Ready")
finalize = _command("finalize", "finalized", " The command adds a deletionTimestamp, so the row is deleted.")
