"""Whether the stop of an attempt was asked for, for every backend of another machine.

A trainer saves and leaves with the same code whether somebody asks it to or its machine is taken: both are a SIGTERM.
So whoever stops a job says so first, with a create-only object beside its claim::

    runs/<run>/jobs/<epoch:6>.<attempt:6>.json.stop

An attempt that ended as stopped without it lost its machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from holdfast.engine.compute.beats import bucket_answers
from holdfast.engine.compute.interface import JobHandle, JobState
from holdfast.engine.compute.remote import claim_key, run_and_epoch
from holdfast.engine.objectstore.errors import ObjectNotFound, ObjectStoreError
from holdfast.engine.objectstore.interface import CREATE, ObjectStore


class Stops:
    """The stops of a site's jobs.

    Args:
        store: opens the site's bucket.
    """

    def __init__(self, store: Callable[[], ObjectStore]) -> None:
        self._store = store
        #: What was asked here is known also while the bucket does not answer.
        self._here: set[str] = set()

    def note(self, handle: JobHandle) -> None:
        """Say, before a job is stopped, that it is asked for. A bucket that does not answer must keep no job alive."""
        key = _key(handle)
        self._here.add(key)
        with contextlib.suppress(ObjectStoreError):
            self._store().put(key, b"", mode=CREATE)

    def was_asked(self, handle: JobHandle) -> bool:
        """Raises ComputeUnavailable: the bucket does not answer, and only it can tell."""
        key = _key(handle)
        if key in self._here:
            return True
        with bucket_answers(handle.name):
            try:
                self._store().head(key)
            except ObjectNotFound:
                return False
        return True

    def read(self, handle: JobHandle, state: JobState, *, spot: bool) -> JobState:
        """What an attempt is that says it was stopped: that, where somebody asked for it, else its machine was taken.

        Args:
            spot: it ran on capacity that may be taken away.

        Raises:
            ComputeUnavailable: the bucket does not answer, and only it can tell.
        """
        if state is not JobState.STOPPED or self.was_asked(handle):
            return state
        return JobState.PREEMPTED if spot else JobState.LOST


def _key(handle: JobHandle) -> str:
    return f"{claim_key(*run_and_epoch(handle.name), int(handle.reference['attempt']))}.stop"
