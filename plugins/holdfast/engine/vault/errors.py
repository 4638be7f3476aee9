"""What a vault can say is wrong."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.errors import ConfigError, HoldfastError, Refused


class VaultError(HoldfastError):
    """Something is wrong with a vault or a request to it."""


class NoVault(ConfigError):
    """There is no repository at this place."""


class VaultExists(Refused):
    """A repository is there already; nothing was changed."""


class WrongKey(VaultError):
    """The key given does not open it. Which part of the key was wrong is not said."""

    exit_code = 3


class NotEntitled(Refused):
    """The keys at hand do not allow it: a writer may not read content, only an administrator forgets."""


class Damaged(VaultError):
    """An object of the vault is missing, cut short, or its bytes are not what was written."""

    exit_code = 4


class HistoryDamaged(Damaged):
    """The log of the repository has a hole, a fork or a forged entry."""


class UnknownFormat(HistoryDamaged):
    """An entry of the log is of a later format, signed by ``signer``."""

    def __init__(self, signer: bytes, *, where: str, expected: str, found: str) -> None:
        self.signer = signer
        super().__init__(
            "the entry is of a later format",
            where=where,
            expected=expected,
            found=found,
            fix="Use a version of Holdfast that knows it",
        )


class RolledBack(HistoryDamaged):
    """The repository lies behind what its witnesses saw: its newest entries were removed or replaced."""


class NotTold(VaultError):
    """Nobody who could tell answers; nothing is known to be wrong."""

    transient = True


class UnknownBackup(ConfigError):
    """No live backup answers to this name or time."""


class UnsafePath(Refused):
    """A path of a backup would leave the target, or cannot be told from another there; nothing was written."""


class Outdated(VaultError):
    """The vault went on so far while this ran that what it knows is no longer enough; it may be run again."""

    transient = True


class CollectedMeanwhile(Outdated):
    """What a running backup wanted to reuse was collected before it was committed; the backup begins anew by itself."""

    def __init__(self, packs: Sequence[bytes]) -> None:
        self.packs = tuple(packs)
        super().__init__(
            "packs this backup depends on were collected while it ran",
            found=f"{len(self.packs)} packs, the first {self.packs[0].hex()}",
            fix="Run it again",
        )


class SourceFailed(VaultError):
    """The producer of a stream failed or was cut short; no backup was made of it."""


class SourceChanged(VaultError):
    """An object of the source changed while it was read; no backup was made."""

    transient = True


class TargetDamaged(VaultError):
    """Bytes that were restored read back as other bytes: the target's fault, not the vault's."""

    exit_code = 4


class TargetFailed(VaultError):
    """A folder cannot be restored to: full, read-only, not to be entered. Run again once that is over, it goes on."""


class TargetChanged(VaultError):
    """Somebody wrote where a restore was writing; nothing of his was touched. Run again, it goes on."""

    transient = True


class NotActive(Refused, VaultError):
    """Nothing is published at a site that is not the active one of the newest epoch; nothing was changed."""


class MissingProgram(ConfigError):
    """A program that is run for this (PostgreSQL's, pgBackRest, Airflow's) is not installed or cannot be started."""


class CommandFailed(VaultError):
    """A program that was run for this failed, was killed, or did not end in time."""
