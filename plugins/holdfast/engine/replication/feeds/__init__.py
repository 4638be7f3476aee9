"""Change feeds: hints that make an incremental sync cost O(changes)."""

from holdfast.engine.replication.feeds.apply import apply_changes, as_listed, different_keys, listing_of
from holdfast.engine.replication.feeds.cursor import FeedCursor, FeedState, load_state, save_state
from holdfast.engine.replication.feeds.errors import (
    FeedDamaged,
    FeedError,
    FeedRewound,
    FeedStateConflict,
    FeedUnavailable,
)
from holdfast.engine.replication.feeds.interface import Change, ChangeFeed, Changes, Rejected, Scope, collapse
from holdfast.engine.replication.feeds.observe import Observation, observe, renew, settle
from holdfast.engine.replication.feeds.opening import open_feed
from holdfast.engine.replication.feeds.reconcile import FeedReport, compare, due_for_reconcile

__all__ = [
    "Change",
    "ChangeFeed",
    "Changes",
    "FeedCursor",
    "FeedDamaged",
    "FeedError",
    "FeedReport",
    "FeedRewound",
    "FeedState",
    "FeedStateConflict",
    "FeedUnavailable",
    "Observation",
    "Rejected",
    "Scope",
    "apply_changes",
    "as_listed",
    "collapse",
    "compare",
    "different_keys",
    "due_for_reconcile",
    "listing_of",
    "load_state",
    "observe",
    "open_feed",
    "renew",
    "save_state",
    "settle",
]
