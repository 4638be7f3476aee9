"""What can go wrong with a training backend."""

from __future__ import annotations

from holdfast.engine.compute.interface import ComputeError
from holdfast.errors import Refused


class JobNotStarted(ComputeError):
    """The job could not be started; nothing runs."""


class AlreadyRuns(Refused, ComputeError):
    """Something of an earlier attempt still lives and may write; a second job was not started."""


class OnAnotherHost(ComputeError):
    """A job of this name was started on another host and cannot be asked from here; no second one was started."""

    transient = True


class UnknownHandle(ComputeError):
    """This backend has no job of this handle."""
