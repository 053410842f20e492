"""What `postgres-writer completion` prints completes commands, options and files in real shells."""

import shutil
import subprocess
from pathlib import Path

import pytest

from postgres_writer.cli.commands import NAMES
from support.server import PROGRAM

# what bash does at a tab: it calls the function that `complete` names and reads COMPREPLY
TAB = """
source "$1"; shift
cd "$1"; shift
function=$(complete -p postgres-writer | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
"$function" postgres-writer "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the script for each shell."""
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh"):
        printed = subprocess.run([str(PROGRAM), "completion", shell], capture_output=True, check=True)
        assert printed.stderr == b""
        (folder / shell).write_bytes(printed.stdout)
    return folder


def completed(scripts: Path, folder: Path, *words: str) -> set[str]:
    """Return what bash offers after `postgres-writer WORDS`, the last of which is being typed."""
    command = ["bash", "--norc", "-c", TAB, "bash", str(scripts / "bash"), str(folder), "postgres-writer", *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stderr == ""
    return set(ended.stdout.split())


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ([""], set(NAMES)),
        (["s"], {"serve", "sync"}),
        (["serve", "--"], {"--help", "--embedded", "--data-dir"}),
        (["audit", "--all"], {"--all-tables"}),
        (["audit", "-o", ""], {"table", "json"}),
        (["sync", "--output", "y"], {"yaml"}),
        (["completion", ""], {"bash", "zsh"}),
        (["sync", "stu"], {"student.yaml"}),
        (["finalize", "--token-file", "stu"], {"student.yaml"}),
        (["serve", "--data-dir", ""], {"folder"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bash_completes(scripts: Path, tmp_path: Path, typed: list[str], offered: set[str]) -> None:
    (tmp_path / "student.yaml").touch()
    (tmp_path / "folder").mkdir()
    assert completed(scripts, tmp_path, *typed) == offered


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_takes_the_script(scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "_postgres-writer").write_bytes((scripts / "zsh").read_bytes())
    # compinit takes what is in fpath by the name in its first line; +X loads it, which parses all of it
    script = 'fpath=("$1" $fpath); autoload -U compinit && compinit -D -u; autoload +X _postgres-writer'
    ended = subprocess.run(
        ["zsh", "-f", "-c", f'{script} && print -- "$_comps[postgres-writer]"', "zsh", str(tmp_path)],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ended.stdout, ended.stderr) == ("_postgres-writer\n", "")
