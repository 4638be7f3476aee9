"""Which protection group a command is about."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError

GroupOption = Annotated[
    str | None, typer.Option("--group", help="The protection group; may be left out when there is one.")
]


def choose_group(runtime: Runtime, group: str | None) -> str:
    """The group that was named, or the only one there is. Raises UnknownName, ConfigError."""
    if group is not None:
        runtime.topology.group(group)
        return group
    groups = sorted(runtime.topology.groups)
    if len(groups) != 1:
        raise ConfigError(
            "which group is not clear",
            where="--group",
            expected=f"one of {', '.join(groups) or '(none)'}",
            found="nothing",
            fix="Name it with --group",
        )
    return groups[0]
