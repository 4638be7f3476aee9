"""What the leaves have in common: what a poll has so far, and how a feed is told from others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from datetime import datetime

from holdfast.engine.replication.feeds.interface import Change, Changes, Rejected, Scope


@dataclass
class Gathered:
    """What one poll has so far."""

    changes: list[Change] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    receipts: list[str] = field(default_factory=list)
    ignored: int = 0

    @property
    def events(self) -> int:
        return len(self.changes) + len(self.rejected) + self.ignored

    def result(self, *, complete: bool, cursor: str = "", as_of: datetime | None = None) -> Changes:
        return Changes(
            changes=tuple(self.changes),
            cursor=cursor,
            complete=complete,
            as_of=as_of,
            rejected=tuple(self.rejected),
            ignored=self.ignored,
            receipts=tuple(self.receipts),
        )


class ScopedFeed(ABC):
    """A feed asked about a scope. By default nothing expires, and the durable cursor is all there is."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    @property
    @abstractmethod
    def name(self) -> str:
        """Its URI."""

    @property
    def identity(self) -> str:
        return f"{self.name} of {'/'.join(filter(None, (self._scope.bucket, self._scope.prefix, self._scope.folder)))}"

    def renew(self, changes: Changes) -> None:  # noqa: B027  # doing nothing is right for a log
        """Ask the service to hold these back a little longer."""

    def acknowledge(self, changes: Changes) -> None:  # noqa: B027
        """Never send these again."""
