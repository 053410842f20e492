"""All variables as docs/configuration.md shows them, and as the help of `serve` does."""

from __future__ import annotations

import textwrap

from postgres_writer.config.declaration import Setting
from postgres_writer.config.settings import DATABASE_SETTINGS, SERVER_SETTINGS

_GROUPS = {"database": DATABASE_SETTINGS, "server": SERVER_SETTINGS}
_INTRODUCTION = """\
# Configuration

<!-- Made by `make docs` from hooks/postgres_writer/config/settings.py: edit it there. -->

Every setting is an environment variable; an empty one counts as unset. If a value or the contents of a file cannot be
used, the server does not start: it exits with code 2 and one sentence that names the variable. Tokens, TLS, table
policy and password are read again when their files change; everything else needs a restart.

In a cluster these come from the Deployment, its two Secrets and the optional ConfigMap `postgres-writer-settings`:
[install.md](install.md#configure) shows how. `postgres-writer serve --help` prints the same list.
"""


def markdown() -> str:
    """Return the configuration reference."""
    return "\n".join([_INTRODUCTION, *(_section(title.capitalize(), group) for title, group in _GROUPS.items())])


def _section(title: str, settings: tuple[Setting, ...]) -> str:
    rows = [f"| `{setting.name}` | {setting.default_text} | {setting.meaning} |" for setting in settings]
    return "\n".join([f"## {title}", "", "| variable | default | meaning |", "| --- | --- | --- |", *rows, ""])


def help_text() -> str:
    """Return the variables as a help shows them."""
    return "\n".join(_environment(title, group) for title, group in _GROUPS.items())


def _environment(title: str, settings: tuple[Setting, ...]) -> str:
    lines = [f"environment ({title}):"]
    for setting in settings:
        lines.append(f"  {setting.name} (default: {setting.default_text})")
        lines += textwrap.wrap(setting.meaning, 80, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines) + "\n"
