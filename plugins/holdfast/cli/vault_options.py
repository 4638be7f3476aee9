"""Options that several of ``holdfast vault``'s commands take."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError


def utc(moment: datetime | None) -> datetime | None:
    """What was typed is UTC."""
    return None if moment is None else moment.replace(tzinfo=UTC)


#: How a time is typed; without a zone, since it is UTC.
FORMATS = ["%Y-%m-%dT%H:%M:%S"]

VaultOption = Annotated[
    str | None, typer.Option("--vault", help="A vault of the topology; may be left out when there is one.")
]
TierOption = Annotated[
    str, typer.Option("--tier", help="Retention tier of what is new: hourly, daily, weekly, monthly or yearly.")
]
BackupArgument = Annotated[
    str | None,
    typer.Argument(metavar="BACKUP", help="Its id, or how it begins; entry:17, its entry's number; or `latest`."),
]
BackupOption = Annotated[str | None, typer.Option("--backup", help="Its id, or how it begins; by default the newest.")]
FromOption = Annotated[str | None, typer.Option("--from", metavar="SITE", help="Read from this mirror of the vault.")]
SourceOption = Annotated[str | None, typer.Option("--source", help="Only backups of this dataset, model or name.")]
AtOption = Annotated[
    datetime | None,
    typer.Option("--at", help="The newest whose content is not newer than this; UTC.", formats=FORMATS, callback=utc),
]
LastOption = Annotated[
    datetime | None,
    typer.Option("--last", help="When the last sample was read; UTC.", formats=FORMATS, callback=utc),
]


def choose_vault(runtime: Runtime, vault: str | None, *, group: str | None = None) -> str:
    """The vault that was named, or the only one there is. Raises UnknownName, ConfigError.

    Args:
        group: only its vaults count.
    """
    if vault is not None:
        runtime.topology.vault(vault)
        return vault
    names = sorted(runtime.topology.vaults if group is None else runtime.topology.group(group).vaults)
    if len(names) != 1:
        where = "`vaults`" if group is None else f"`groups.{group}.vaults`"
        raise ConfigError(
            "which vault is not clear",
            where="--vault",
            expected=f"one of {', '.join(names) or f'(none named in {where})'}",
            found="nothing",
            fix="Name it with --vault" if names else "Describe one in the topology: docs/how-to/back-up.md",
        )
    return names[0]
