"""What can go wrong with a plan, told apart by what its reader should do."""

from __future__ import annotations

from holdfast.engine.replication.errors import ReplicationError
from holdfast.errors import ConfigError


class PathsCollide(ConfigError, ReplicationError):
    """Renames bring two source objects to one path. Nothing was planned."""


class PlanDamaged(ReplicationError):
    """A stored plan, shard or result is missing, unreadable, or not what was written."""


class PlanConflict(ReplicationError):
    """Another document already lies where this one belongs: the work was done with another outcome."""
