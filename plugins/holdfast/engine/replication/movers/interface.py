"""What every transfer service is asked: begin, look, and give up."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from holdfast.clock import Clock
from holdfast.engine.config import Connection, Site
from holdfast.engine.replication.errors import Interrupted, ReplicationError


class MoveFailed(ReplicationError):
    """The service did not bring the objects. What it brought is looked at all the same; the rest is copied by us."""

    transient = True


@dataclass(frozen=True)
class Hop:
    """From where to where a service is to bring objects.

    Args:
        source_folder: key prefix at the source, with the slash: ``data/<folder>/``.
        staging: key prefix at the target, with the slash, of this run alone. No snapshot is made of what lies there.
    """

    source_site: str
    source: Site
    source_connection: Connection
    target_site: str
    target: Site
    target_connection: Connection
    source_folder: str
    staging: str

    def source_prefix(self) -> str:
        """`source_folder` in the bucket, the site's own prefix included."""
        return _in_bucket(self.source, self.source_folder)

    def target_prefix(self) -> str:
        """`staging` in the bucket, the site's own prefix included."""
        return _in_bucket(self.target, self.staging)


@dataclass(frozen=True)
class Moved:
    """How far a service is. ``detail`` is its own word."""

    state: Literal["running", "done", "failed"]
    detail: str = ""


class Mover(Protocol):
    """A transfer service for one hop. It never overwrites and never deletes."""

    name: str

    def begin(self, names: Sequence[str]) -> str:
        """Have these objects (relative to the hop's folders) brought; a handle for `look`.

        Raises:
            ConfigError: the service refuses what it was asked.
            MoveFailed: it does not answer.
        """

    def look(self, handle: str) -> Moved:
        """How far it is. Raises MoveFailed: it does not answer."""

    def cancel(self, handle: str) -> None:
        """Have it stop; what it brought stays."""


def await_end(
    mover: Mover,
    handle: str,
    *,
    clock: Clock,
    deadline_seconds: float,
    poll_seconds: float,
    stop: threading.Event | None = None,
) -> Moved:
    """Look until the service has ended.

    Raises:
        MoveFailed: it failed, or had not ended in time; then it was cancelled.
        Interrupted: ``stop`` was set; it was cancelled.
    """
    until = clock.monotonic() + deadline_seconds
    while True:
        found = mover.look(handle)
        if found.state == "done":
            return found
        if found.state == "failed":
            raise MoveFailed("the transfer failed", where=f"{mover.name}: {handle}", found=found.detail)
        if stop is not None and stop.is_set():
            mover.cancel(handle)
            raise Interrupted("the transfer was stopped", where=f"{mover.name}: {handle}")
        if clock.monotonic() >= until:
            mover.cancel(handle)
            raise MoveFailed(
                "the transfer did not end in time",
                where=f"{mover.name}: {handle}",
                expected=f"its end in {deadline_seconds:g} s",
                found=found.detail,
            )
        clock.sleep(poll_seconds)


def _in_bucket(site: Site, key: str) -> str:
    prefix = site.prefix.strip("/")
    return f"{prefix}/{key}" if prefix else key
