"""Provider services that move bytes for a sync: they stage, and Holdfast verifies and publishes."""

from holdfast.engine.replication.movers.adopt import Adopted, adopt
from holdfast.engine.replication.movers.interface import Hop, Moved, MoveFailed, Mover, await_end
from holdfast.engine.replication.movers.opening import open_mover

__all__ = ["Adopted", "Hop", "MoveFailed", "Moved", "Mover", "adopt", "await_end", "open_mover"]
