"""What can go wrong with a checkpoint."""

from __future__ import annotations

from holdfast.errors import HoldfastError, Refused


class CheckpointError(HoldfastError):
    """Base of the errors of this package."""


class CheckpointUnreadable(CheckpointError):
    """A manifest or blob is not what was written: damaged, truncated or missing."""


def not_of_this_adapter(where: str, expected: str, found: str) -> CheckpointUnreadable:
    """The error of an adapter that was given another one's checkpoint, or one that lacks a part."""
    return CheckpointUnreadable(
        "the checkpoint is not one of this adapter",
        where=where,
        expected=expected,
        found=found,
        fix="Resume with the adapter the run began with, or begin a run of another name",
    )


class FormatUnknown(CheckpointUnreadable):
    """A manifest of a format that this version does not read; it may well be whole."""


class NothingSelectable(CheckpointError):
    """The epoch goes on from a checkpoint, and neither it nor an ancestor of it can be resumed from here."""


class StepTaken(CheckpointError):
    """This step already has a checkpoint of this epoch with other content; the next step's key is free."""


class CheckpointFailed(CheckpointError):
    """The site's own store refuses checkpoints for a reason that waiting does not cure."""


class EnvironmentIncomplete(CheckpointError):
    """The process was not started with the environment contract of a training job."""

    exit_code = 2


class Fenced(Refused, CheckpointError):
    """This epoch is over: another site is active and nothing more may be written. Exit with FENCED_EXIT_CODE."""

    exit_code = 76


class StopRequested(CheckpointError):
    """The job was asked to stop and its last step is saved. Exit with STOPPED_EXIT_CODE."""

    exit_code = 75


class StateTooLarge(CheckpointError):
    """The state does not fit into the memory allowed for saving it; nothing was saved."""


class TornState(CheckpointError):
    """The state changed while it was copied: the save mode does not fit this training loop."""


class RankLost(CheckpointError):
    """A rank of a distributed job is gone or did not come in time; the job has to be started again."""
