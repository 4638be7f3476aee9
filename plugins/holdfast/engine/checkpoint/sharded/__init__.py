"""Checkpoints of a state that is spread over ranks: saved by all, resumed by as many as there are then."""

from holdfast.engine.checkpoint.sharded.checkpointer import ShardedCheckpointer
from holdfast.engine.checkpoint.sharded.ranks import Ranks
from holdfast.engine.checkpoint.sharded.saved import SavedShards
from holdfast.engine.checkpoint.sharded.state import ShardedAdapter, ShardedState

__all__ = ["Ranks", "SavedShards", "ShardedAdapter", "ShardedCheckpointer", "ShardedState"]
