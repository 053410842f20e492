"""The commands of docs/troubleshooting.md work."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from cluster.installation import Installation
from support.documents import ROOT
from support.manifests import shell
from support.waiting import wait_until

DOCS = ROOT / "docs"
PAGE = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
BLOCKS = [re.sub("^  ", "", block, flags=re.M) for block in re.findall(r"^ *```sh\n(.*?)^ *```$", PAGE, re.M | re.S)]
COMMANDS = [line for block in BLOCKS for line in block.splitlines()]


def run(installation: Installation, command: str, name: str) -> str:
    """Run a command of the page about the resource of this name; return what it printed."""
    command = command.replace("NAMESPACE", "default").replace("NAME", name)
    environ = {**installation.database.environ, "PSQL_USER": "postgres"}
    path = f"{Path(sys.executable).parent}:{installation.cluster.environment()['PATH']}"
    return shell(installation.cluster, command, **environ, PATH=path, check="audit" not in command).stdout


def test_every_command_of_the_page_says_what_it_promises(installation: Installation, tmp_path: Path) -> None:
    untried = list(COMMANDS)

    def printed(part: str, name: str = "one", *, more: str = "") -> str:
        [command] = [command for command in COMMANDS if part in command]
        untried.remove(command)
        return run(installation, command + more, name)

    with installation.served(tmp_path):
        installation.create("one")
        installation.wait_ready("one")
        assert "compositecontrollers" in printed("get crd")
        assert "compositecontroller.metacontroller.k8s.io/postgres-writer" in printed("get compositecontroller,")
        assert "No resources found" in printed("reason=SyncError")
        assert printed('type=="Ready"') == "The row in table public.students matches the spec."
        assert "condition met" in printed("observedTable")
        assert "deletionPolicy" in printed("kubectl explain")
        assert printed("observedGeneration") == "1 1\n"
        assert printed("paused") == "\n"
        assert printed("status.id") == 'default/one ["public.students"]\n'
        assert "RowSynced: The row in table public.students matches the spec." in printed("metadata.finalizers")
        assert "patched" in printed("kubectl -n NAMESPACE patch")
        assert "ok     default/sample-student         The role can write public.students." in printed("writer check")
        installation.delete("one")
        wait_until(lambda: not installation.finalizers(), "the deletion")
        assert installation.ids() == ["one"]
    listed, pruned = [command for command in COMMANDS if "audit" in command]
    assert re.search(r"^no-resource +default/one +public\.students", run(installation, listed, "one"), re.M)
    assert "1 of 1 rows deleted." in run(installation, pruned + " --yes --context test", "one")
    assert installation.ids() == []
    assert untried == [listed, pruned]
