"""What can be wrong with an export, in the order of how bad it is."""

from __future__ import annotations

from holdfast.errors import HoldfastError, Refused


class Tampered(HoldfastError):
    """What lies there is not what was sealed: a byte, an order, a signature or a file."""

    exit_code = 5


class NotComplete(HoldfastError):
    """What was sealed is there, and it is known that events are missing, or more may still arrive."""

    exit_code = 6


class NotKnown(HoldfastError):
    """Nothing shows whether it is all, or who sealed it. Unknown is not a pass."""

    exit_code = 7


class SealedMeanwhile(HoldfastError):
    """Somebody else appended to the ledger since it was read. Nothing was appended; collect and seal again."""

    transient = True


class ClockBehind(Refused):
    """The clock here is behind what was sealed. Nothing was sealed; in a while, or once it is set right, it can be."""

    transient = True
