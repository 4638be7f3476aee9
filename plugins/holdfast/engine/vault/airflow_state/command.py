"""The `airflow` command, run as a child with an environment that is said and not inherited."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as ParseError
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from holdfast.engine.vault.airflow_state.children import Child, run
from holdfast.engine.vault.errors import CommandFailed

_INSTALLED = """
import importlib.metadata as m, json, platform
pins = {d.metadata["Name"]: d.version for d in m.distributions() if d.metadata["Name"]}
print(json.dumps({"python": platform.python_version(), "pins": pins}))
"""
#: A line of Airflow's own log, which it writes to its output.
_LOGGED = re.compile(r"^\d{4}-\d\d-\d\dT\S+ \[\w+\s*\] ")
_SECTION = re.compile(r"^\[[^\]\s]+\]$")


@dataclass(frozen=True)
class AirflowCommand:
    """An installation of Airflow.

    Args:
        executable: its `airflow`.
        environment: all that it sees: ``AIRFLOW_HOME``, ``AIRFLOW__…``, ``PATH``, whatever a secrets backend needs.
        timeout_seconds: for one command.
        python: the interpreter it is installed for; the one beside it by default.
    """

    executable: Path
    environment: Mapping[str, str] = field(repr=False)
    timeout_seconds: float = 180.0
    python: Path | None = None

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None, folder: Path | None = None) -> str:
        """Run a command of it. Returns its output. Raises CommandFailed, MissingProgram."""
        environ = self.environment if environment is None else environment
        output = run(
            [self.executable, *arguments],
            {**environ, "NO_COLOR": "1"},
            timeout_seconds=self.timeout_seconds,
            hide=secrets_of(environ),
            folder=folder,
        )
        return output.decode(errors="replace")

    def start(self, *arguments: str, environment: Mapping[str, str], log: Path, seconds: float) -> Child:
        """Start one of its services; its output goes to a file."""
        with log.open("wb") as output:
            return Child(
                [self.executable, *arguments],
                {**environment, "NO_COLOR": "1"},
                timeout_seconds=seconds,
                stdout=output,
                hide=secrets_of(environment),
                folder=log.parent,
                orphaned=signal.SIGTERM,
            )

    @cached_property
    def installed(self) -> Installed:
        """What is installed beside it. Raises CommandFailed."""
        python = self.python or self.executable.parent / "python"
        output = run([python, "-c", _INSTALLED], self.environment, timeout_seconds=self.timeout_seconds)
        found = json.loads(output)
        return Installed(str(found["python"]), {str(name): str(pin) for name, pin in sorted(found["pins"].items())})

    @cached_property
    def configuration(self) -> Mapping[str, Mapping[str, str]]:
        """All options in effect by section, with what Airflow itself calls sensitive hidden. Raises CommandFailed."""
        output = self.run("config", "list", "--show-values", "--hide-sensitive", "--color", "off")
        lines = output.splitlines()
        first = next((number for number, line in enumerate(lines) if _SECTION.match(line)), len(lines))
        parser = ConfigParser(interpolation=None, strict=False, comment_prefixes=("#",), delimiters=("=",))
        try:
            parser.read_string("\n".join(lines[first:]))
        except ParseError as error:
            raise CommandFailed(
                "Airflow's configuration cannot be read",
                where="airflow config list",
                expected="sections and options",
                found=type(error).__name__,
            ) from None
        return {name: dict(parser.items(name)) for name in parser.sections()}

    def option(self, section: str, name: str) -> str | None:
        """One option's value in effect, ``None`` where it is not set. It may be a secret. Raises CommandFailed."""
        if name not in self.configuration.get(section, {}):
            return None
        lines = [
            line for line in self.run("config", "get-value", section, name).splitlines() if not _LOGGED.match(line)
        ]
        return "\n".join(lines).strip() or None


@dataclass(frozen=True)
class Installed:
    """An environment of Python.

    Args:
        pins: version by distribution.
    """

    python: str
    pins: Mapping[str, str]

    @property
    def airflow(self) -> str | None:
        return self.pins.get("apache-airflow-core") or self.pins.get("apache-airflow")


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Values of an environment that must not appear in a message."""
    return tuple(
        value
        for name, value in environ.items()
        if len(value) > 3 and re.search(r"PASSWORD|SECRET|TOKEN|FERNET|_KEY$|SQL_ALCHEMY_CONN|CREDENTIAL", name)
    )
