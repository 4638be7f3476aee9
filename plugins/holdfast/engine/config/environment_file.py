"""Environment files: ``KEY=VALUE`` lines that a shell reads with ``set -a; . file`` and a program reads with this.

The format is the part of POSIX shell that needs no shell: one assignment per line, empty lines and ``#`` comments; the
value is one shell word without expansions, so either bare (letters, digits and ``@%_+=:,./-``) or in single
quotes, with ``'"'"'`` for a quote inside. A value holds no line break.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from holdfast.errors import ConfigError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def format_environment(environ: Mapping[str, str], *, comment: str | None = None) -> str:
    """Variables as the text of an environment file, sorted by name.

    Raises:
        ConfigError: a name is no variable's name, or a value holds a line break or NUL.
    """
    lines = [] if comment is None else [f"# {comment}"]
    for name, value in sorted(environ.items()):
        if not _NAME.fullmatch(name) or any(forbidden in value for forbidden in "\n\r\0"):
            raise ConfigError(
                "this cannot stand in an environment file", where=name, expected="a plain name and a value on one line"
            )
        lines.append(f"{name}={shlex.quote(value)}")
    return "\n".join(lines) + "\n"


def parse_environment(text: str, *, where: str = "environment file") -> dict[str, str]:
    """The variables of an environment file's text.

    Raises:
        ConfigError: a line is no assignment; the message names the line, never its value, which may be a secret.
    """
    found: dict[str, str] = {}
    # Not splitlines: it also breaks at form feeds and the like, which may stand in a value.
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.removeprefix("export ").partition("=")
        try:
            words = shlex.split(value, comments=False, posix=True)
        except ValueError:
            words = ["", ""]
        if not equals or not _NAME.fullmatch(name) or len(words) > 1:
            raise ConfigError(
                "not an assignment",
                where=f"{where}, line {number}",
                expected="NAME=value, with the value in single quotes where it has special characters",
                found="something else",
            )
        found[name] = words[0] if words else ""
    return found


def read_environment_file(path: Path | str) -> dict[str, str]:
    """Read an environment file.

    Raises:
        ConfigError: it cannot be read, or a line is no assignment.
    """
    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the environment file cannot be read",
            where=str(file),
            expected="KEY=VALUE lines",
            found=type(error).__name__,
            fix="Start the sandbox: holdfast sandbox up",
        ) from None
    return parse_environment(text, where=str(file))
