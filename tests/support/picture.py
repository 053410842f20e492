"""docs/demo.svg: some steps of the demo's real output, as a terminal shows them (`make docs`)."""

from __future__ import annotations

import io
import os
import re
import subprocess
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from support.postgres import scrubbed_environment
from support.server import PROGRAM

PICTURE = Path(__file__).parents[2] / "docs" / "demo.svg"
STEPS = ("1", "3", "4", "5")
"""Those that tell the story and print nothing that differs from run to run."""
_WIDTH = 76
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def steps_of(printed: str) -> str:
    """Return the steps of the demo's output that the picture shows, below the command."""
    parts = printed.split("\n\n")
    shown = [part for part in parts if _ESCAPE.sub("", part).partition(".")[0] in STEPS]
    return "\n\n".join(["$ postgres-writer demo", *shown]) + "\n"


def draw(text: str) -> str:
    """Return an SVG of a terminal that shows the text with its colours."""
    console = Console(record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(Text.from_ansi(text))
    drawn = console.export_svg(title="postgres-writer demo", theme=MONOKAI, unique_id="demo")
    # the font would be fetched from another site, which a picture in a page may not do
    return re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL)


def main() -> None:
    """Run the demo and write the picture."""
    environ = {**scrubbed_environment(os.environ), "FORCE_COLOR": "1"}
    environ.pop("NO_COLOR", None)
    done = subprocess.run([str(PROGRAM), "demo"], env=environ, stdout=subprocess.PIPE, text=True, check=True)
    PICTURE.write_text(draw(steps_of(done.stdout)), encoding="utf-8")


if __name__ == "__main__":
    main()
