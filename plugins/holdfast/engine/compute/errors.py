"""What can go wrong with a training backend."""

from __future__ import annotations

from holdfast.engine.compute.interface import ComputeError
from holdfast.errors import Refused


class JobNotStarted(ComputeError):
    """The job could not be started; nothing runs."""


class AlreadyRuns(Refused, ComputeError):
    """Something of an earlier attempt still lives and may write; a second job was not started."""


class OnAnotherHost(ComputeError):
    """A job of this name was started on another host, or disk, and cannot be asked from here; no second was started.

    It is asked for again, on whichever worker, until one that has the job's folder answers. If that disk is gone for
    good only a person can say so: `hosts` and the error's `fix` tell which object to delete.
    """

    transient = True


class UnknownHandle(ComputeError):
    """This backend has no job of this handle."""


class NoCapacity(ComputeError):
    """The service has no machine of this kind now; nothing was started. Another placement, or later."""

    transient = True


class ComputeUnavailable(ComputeError):
    """The compute service does not answer, or throttles; whether it did what was asked is found out by asking again."""

    transient = True


class ComputeRefused(Refused, ComputeError):
    """The compute service does not allow it: credentials, permission, quota of zero."""
