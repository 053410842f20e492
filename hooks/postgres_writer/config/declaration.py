"""How a field of a frozen dataclass declares the variable that sets it, and how such a dataclass is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from postgres_writer.config import parsers
from postgres_writer.errors import ConfigError


@dataclass(frozen=True)
class Setting:
    """One environment variable: what it means, how its text is read, and its value when it is unset or empty."""

    name: str
    meaning: str
    parse: Callable[[str, str], Any] = parsers.text
    default: Any = None
    shown_default: str = ""
    required: str = ""
    """What to do when it is unset, for a setting without which nothing works."""

    @property
    def default_text(self) -> str:
        """The default as the help shows it."""
        if self.shown_default or self.default is None:
            return self.shown_default or "none"
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    def read(self, environ: Mapping[str, str]) -> Any:
        """Return the value that the environment gives this setting.

        Raises ConfigError with one sentence that names the variable.
        """
        value = environ.get(self.name)
        if value:
            return self.parse(self.name, value)
        if self.required:
            raise ConfigError(f"{self.name} is not set: {self.required}.")
        return self.default


def setting(  # noqa: PLR0913, PLR0917 - what a Setting takes
    name: str,
    meaning: str,
    parse: Callable[[str, str], Any] = parsers.text,
    default: Any = None,
    shown_default: str = "",
    required: str = "",
    **options: Any,
) -> Any:
    """Declare a field with the variable that sets it; ``options`` are those of dataclasses.field."""
    if not required:
        options["default"] = default
    return field(**options, metadata={"setting": Setting(name, meaning, parse, default, shown_default, required)})


def read(cls: type[Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of the fields that settings declare."""
    return {each.name: each.metadata["setting"].read(environ) for each in fields(cls) if each.metadata}


def settings_of(cls: type[Any]) -> tuple[Setting, ...]:
    """Return the settings of a dataclass in the order of its fields."""
    return tuple(each.metadata["setting"] for each in fields(cls) if each.metadata)
