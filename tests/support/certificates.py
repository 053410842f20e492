"""Certificates for tests, made by openssl."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1 and its key."""

    certificate: Path
    key: Path

    @property
    def environ(self) -> dict[str, str]:
        """The variables that let the server use it."""
        return {"HOOK_TLS_CERT_FILE": str(self.certificate), "HOOK_TLS_KEY_FILE": str(self.key)}


def make_certificate(folder: Path, name: str = "server", common_name: str = "server") -> Certificate:
    """Make a certificate in the folder; files of the same name are replaced."""
    made = Certificate(folder / f"{name}.crt", folder / f"{name}.key")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    subject = ["-subj", f"/CN={common_name}", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    files = ["-keyout", str(made.key), "-out", str(made.certificate)]
    subprocess.run([*command.split(), *subject, *files], check=True, capture_output=True)
    return made
