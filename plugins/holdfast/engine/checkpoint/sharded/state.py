"""What an adapter of a distributed trainer gives and takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from holdfast.engine.checkpoint.errors import CheckpointError

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
        rest: the same at every rank, each as JSON (see `to_json`): rank 0's are written.
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


def to_json(value: Any, where: str) -> bytes:
    """Python's own JSON: it tells 1.0 from 1 and gives each float back as it was. Raises CheckpointError."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            "a part of the training state is neither tensor nor JSON",
            where=where,
            expected="numbers, text, lists and tensors",
            found=str(error),
            fix="Keep functions out of the scheduler's and `extra`'s state",
        ) from None
