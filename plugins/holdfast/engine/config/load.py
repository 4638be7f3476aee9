"""Read a topology file: YAML with ``${NAME}`` and ``${NAME:-default}`` from the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from holdfast.engine.config.models import Topology
from holdfast.errors import ConfigError

#: Names the topology file; without it ``include/holdfast.yaml`` under the current folder is taken.
TOPOLOGY_VARIABLE = "HOLDFAST_TOPOLOGY"
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def topology_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the topology is looked for."""
    return Path(environ.get(TOPOLOGY_VARIABLE) or "include/holdfast.yaml")


def load_topology(path: Path | str | None = None, environ: Mapping[str, str] = os.environ) -> Topology:
    """Read and validate a topology.

    Args:
        path: the file; by default the one `topology_path` names.
        environ: where ``${NAME}`` is looked up.

    Raises:
        ConfigError: the file cannot be read, is no YAML, names an unset variable or breaks the model; the message
            names the file, the path in it, what was expected and what was found.
    """
    file = Path(path) if path is not None else topology_path(environ)
    document = _expand(_read(file), environ, file, ())
    if not isinstance(document, dict):
        raise ConfigError(
            "the topology is not a mapping",
            where=str(file),
            expected="`version`, `sites`, `groups` …",
            found=type(document).__name__,
        )
    try:
        topology = Topology.model_validate(document)
    except ValidationError as error:
        raise ConfigError(
            f"the topology is not valid:\n{_explain(error)}",
            where=str(file),
            fix="docs/reference/topology.md describes every field",
        ) from None
    topology._path = file.resolve()
    return topology


def _read(file: Path) -> Any:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the topology cannot be read",
            where=str(file),
            expected="a readable UTF-8 file",
            found=str(error),
            fix=f"Name it with {TOPOLOGY_VARIABLE} or --topology",
        ) from None
    try:
        return yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader that also refuses repeated keys
    except yaml.YAMLError as error:
        raise ConfigError("the topology is no YAML", where=str(file), found=" ".join(str(error).split())) from None


class _UniqueKeys(yaml.SafeLoader):
    """YAML lets a later key silently replace an earlier one; a second site of the same name must not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _expand(value: Any, environ: Mapping[str, str], file: Path, at: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {k: _expand(v, environ, file, (*at, str(k))) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(v, environ, file, (*at, str(i))) for i, v in enumerate(value)]
    if isinstance(value, str):
        return expand_variables(value, environ, where=f"{file}: {'.'.join(at)}")
    return value


def expand_variables(text: str, environ: Mapping[str, str], *, where: str) -> str:
    """Replace ``${NAME}`` and ``${NAME:-default}``. Raises ConfigError for an unset name without a default."""

    def lookup(match: re.Match[str]) -> str:
        name, default = match.group(1), match.group(2)
        if name in environ:
            return environ[name]
        if default is not None:
            return default
        raise ConfigError(
            "an environment variable is not set",
            where=where,
            expected=f"${name} to be set",
            found="nothing",
            fix=f"Export {name}, or write ${{{name}:-default}}. "
            'The sandbox\'s variables: set -a; eval "$(holdfast sandbox env)"',
        )

    return _REFERENCE.sub(lookup, text)


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        at = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "value_error" and not at:
            lines += [f"  {line}" for line in message.splitlines()]
            continue
        found = "" if problem["type"] == "missing" else f"; found {_short(problem['input'])}"
        lines.append(f"  {at}: {message}{found}")
    return "\n".join(lines)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
