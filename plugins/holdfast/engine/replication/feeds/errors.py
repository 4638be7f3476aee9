"""What can go wrong with a change feed."""

from __future__ import annotations

from holdfast.engine.replication.errors import ReplicationError


class FeedError(ReplicationError):
    """Base of the errors of this package. The source itself may be well: a full listing needs no feed."""


class FeedUnavailable(FeedError):
    """The feed's service did not answer, or not now. May be tried again."""

    transient = True


class FeedDamaged(FeedError):
    """A report or log of the feed is not what its manifest says, or cannot be read."""


class FeedRewound(FeedError):
    """The feed no longer holds what comes after the cursor: changes may be lost, only a full listing tells."""


class FeedStateConflict(FeedError):
    """Another run moved the cursor since this one read it. Nothing was acknowledged; the changes come again."""

    transient = True
