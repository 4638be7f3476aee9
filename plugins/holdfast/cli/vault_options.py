"""Options that several of ``holdfast vault``'s commands take."""

from __future__ import annotations

from typing import Annotated

import typer

from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError

VaultOption = Annotated[
    str | None, typer.Option("--vault", help="A vault of the topology; may be left out when there is one.")
]
TierOption = Annotated[
    str, typer.Option("--tier", help="Retention tier of what is new: hourly, daily, weekly, monthly or yearly.")
]


def choose_vault(runtime: Runtime, vault: str | None) -> str:
    """The vault that was named, or the only one there is. Raises UnknownName, ConfigError."""
    if vault is not None:
        runtime.topology.vault(vault)
        return vault
    names = sorted(runtime.topology.vaults)
    if len(names) != 1:
        raise ConfigError(
            "which vault is not clear",
            where="--vault",
            expected=f"one of {', '.join(names) or '(none defined in `vaults`)'}",
            found="nothing",
            fix="Name it with --vault" if names else "Describe one in the topology: docs/how-to/back-up.md",
        )
    return names[0]
