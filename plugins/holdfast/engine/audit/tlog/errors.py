"""What a log can say is wrong."""

from __future__ import annotations

from holdfast.errors import HoldfastError


class LogError(HoldfastError):
    """Something is wrong with a log, or with what claims to be of one."""

    exit_code = 4


class ProofRefused(LogError):
    """A proof does not show what it should, or cannot be one."""


class NoteRefused(LogError):
    """A signed note is malformed, or not signed as it should be."""


class TileWrong(LogError):
    """A tile is missing, cut short, or does not belong to the tree of the checkpoint.

    Args:
        path: which tile.
    """

    def __init__(self, what: str, path: str, *, expected: str | None = None, found: str | None = None) -> None:
        self.path = path
        super().__init__(what, where=path, expected=expected, found=found)


class TimestampRefused(LogError):
    """A timestamp's response is malformed, of other bytes, or not of a trusted authority."""


class SignerError(LogError):
    """What a signer gave is not its key's signature."""
