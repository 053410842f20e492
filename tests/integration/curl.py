"""The real curl as a client: exactly the bytes that a test gives are sent."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.answers import check_own_status, decode_answer


@dataclass(frozen=True)
class Answer:
    """What came back; the names of the headers are in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


def curl(url: str, *arguments: str, data: bytes | None = None, content_type: str | None = "application/json") -> Answer:
    """Run curl, with ``data`` as the body of a POST, and return the answer; an error of curl fails the test."""
    with tempfile.TemporaryDirectory(prefix="pgw-curl-") as folder:
        command = ["curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "30", url]
        command += ["--output", f"{folder}/body", "--dump-header", f"{folder}/headers", "--write-out", "%{http_code}"]
        if data is not None:
            Path(folder, "data").write_bytes(data)
            # an empty value takes curl's own header away
            command += ["--data-binary", f"@{folder}/data", "--header", f"Content-Type: {content_type or ''}".strip()]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        body = Path(folder, "body")
        lines = Path(folder, "headers").read_text(encoding="latin-1").splitlines()
        pairs = (line.split(":", 1) for line in lines if ":" in line)
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        return Answer(int(done.stdout), headers, body.read_bytes() if body.exists() else b"")


def call_hook(url: str, hook: str, request: dict[str, Any], *arguments: str) -> dict[str, Any]:
    """Call a hook with a request that is one, and return its answer, decoded as strictly as Metacontroller does."""
    answer = curl(f"{url}/{hook}", *arguments, data=json.dumps(request).encode())
    assert answer.status == 200, (answer.status, answer.body)
    assert answer.headers["content-type"] == "application/json"
    decoded = decode_answer(answer.body, "composite" if "parent" in request else "decorator")
    if decoded["status"] is not None and decoded["status"] != (request.get("parent") or request["object"]).get(
        "status"
    ):
        check_own_status(decoded["status"])
    return decoded


def check_problem(answer: Answer, status: int) -> None:
    """Check that an answer is a problem of this status in the form of RFC 9457, and tells no internals."""
    assert answer.status == status, (answer.status, answer.body)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json
    assert problem.keys() <= {"type", "title", "status", "detail"}
    assert (problem["type"], problem["status"]) == ("about:blank", status)
    assert len(answer.body) < 500
    for word in ("Traceback", "File ", "psycopg", "flask", "werkzeug", ".py"):
        assert word not in answer.body.decode()
