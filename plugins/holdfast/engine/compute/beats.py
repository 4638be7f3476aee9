"""The heartbeats of a backend's jobs in the site's bucket, read by handle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from holdfast.engine.compute import remote
from holdfast.engine.compute.errors import ComputeUnavailable
from holdfast.engine.compute.interface import JobHandle
from holdfast.engine.objectstore.errors import ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectStore


class Beats:
    """Heartbeats of jobs whose handles tell their ``attempt``.

    Args:
        store: opens the site's bucket.
    """

    def __init__(self, store: Callable[[], ObjectStore]) -> None:
        self._store = store

    def read(self, handle: JobHandle, *, needed: bool) -> dict[str, Any] | None:
        """The heartbeat; None before the first.

        Args:
            needed: a bucket that does not answer is an error, because only the heartbeat can tell.

        Raises:
            ComputeUnavailable: it is needed, and the bucket does not answer.
        """
        try:
            with bucket_answers(handle.name):
                return remote.read_heartbeat(self._store(), key_of(handle))
        except ComputeUnavailable:
            if needed:
                raise
            return None

    def request_checkpoint(self, handle: JobHandle) -> None:
        """Ask the job for a checkpoint. Raises ComputeUnavailable."""
        with bucket_answers(handle.name):
            remote.request_checkpoint(self._store(), key_of(handle))


def key_of(handle: JobHandle) -> str:
    """Where the attempt of this handle keeps its heartbeat."""
    return remote.heartbeat_key(*remote.run_and_epoch(handle.name), int(handle.reference["attempt"]))


@contextmanager
def bucket_answers(name: str) -> Iterator[None]:
    """Whatever is wrong with the site's bucket, the job of this name may be all right: ComputeUnavailable."""
    try:
        yield
    except ObjectStoreError as error:
        raise ComputeUnavailable(
            "the site's bucket does not answer for the job", where=name, found=str(error)
        ) from error
