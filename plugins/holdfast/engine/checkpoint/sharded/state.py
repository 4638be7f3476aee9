"""What an adapter of a distributed trainer gives and takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from holdfast.engine.checkpoint.sharded.saved import SavedShards

#: The blob with the rest, the same at every rank.
REST_BLOB = "rest.json"


@dataclass(frozen=True, slots=True)
class ShardedState:
    """One rank's part of a training state, where it lies.

    Args:
        tensors: by a name that does not depend on the number of ranks: DTensors, of which each rank writes its own
            piece, and plain tensors, which are the same at every rank and are written once.
        groups: which blobs a tensor goes to, by its name: ``model``, ``model-frozen``, ``optimizer``. What begins
            with ``model`` counts for the model's digest.
        own: what this rank has alone: finished blobs by name, the same names at every rank.
        rest: the same at every rank, each as JSON (see `state_json`): rank 0's are written.
        fingerprint: what of this rank's environment the numbers depend on, beyond what Holdfast records itself.
    """

    tensors: Mapping[str, Any] = field(repr=False)
    groups: Mapping[str, str]
    own: Mapping[str, bytes] = field(repr=False)
    rest: Mapping[str, bytes] = field(repr=False)
    fingerprint: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class ShardedAdapter(Protocol):
    """How a distributed trainer's objects become a `ShardedState` and back. Called at every rank."""

    def fingerprint(self) -> Mapping[str, str]:
        """What of this rank's environment the numbers depend on."""

    def shards(self) -> ShardedState:
        """This rank's part, where it lies: nothing is copied but ``own`` and ``rest``."""

    def replicas(self) -> Mapping[str, Callable[[], str]]:
        """The digests of the tensors that have to be the same at every rank, each computed when asked for."""

    def load_shards(self, saved: SavedShards, *, rank: int, world: int) -> None:
        """Continue from there: exactly, where the ranks are as many as they were."""
