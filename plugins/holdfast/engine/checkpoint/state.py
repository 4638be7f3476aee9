"""What a training run must carry over a loss: bytes for the big parts, JSON for the small rest. Never pickle."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from pydantic import JsonValue

from holdfast.engine.checkpoint.errors import CheckpointError

#: Where a checkpoint's ``state`` has the figures of its step, beside the adapter's own values.
METRICS = "metrics"


def finite(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Those that are numbers; a loss that is not finite is no reason to keep a checkpoint."""
    return {name: float(value) for name, value in metrics.items() if value is not None and math.isfinite(value)}


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The state of a run after a step.

    Args:
        blobs: named bytes, e.g. ``{"model.ubj": …}``. A mutable buffer is copied when the checkpoint is taken.
        values: small JSON: positions, seeds, generator states. Integers beyond 2**53 - 1 as strings.
        model: which blobs are the model (its digest is compared after a resume); by default all of them.
        fingerprint: what of the environment the numbers depend on, beyond what Holdfast records itself.
    """

    blobs: Mapping[str, bytes] = field(repr=False)
    values: Mapping[str, JsonValue] = field(default_factory=dict)
    model: tuple[str, ...] = ()
    fingerprint: Mapping[str, str] = field(default_factory=dict)

    def frozen(self) -> TrainingState:
        """The same state, sharing nothing that training can change."""
        import copy

        blobs = {name: bytes(data) for name, data in self.blobs.items()}
        return TrainingState(
            blobs, copy.deepcopy(dict(self.values)), self.model or tuple(sorted(blobs)), dict(self.fingerprint)
        )


@runtime_checkable
class Adapter(Protocol):
    """How a framework's objects become a `TrainingState` and back."""

    def state(self) -> TrainingState:
        """Everything the next step depends on."""

    def load_state(self, state: TrainingState) -> None:
        """Continue from this state, exactly."""


@runtime_checkable
class Fingerprinted(Protocol):
    """An adapter that tells its fingerprint before there is a state: a fresh one is asked for it when a run resumes."""

    def fingerprint(self) -> Mapping[str, str]:
        """That of every `TrainingState` it gives."""


def state_json(value: Any, where: str) -> bytes:
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
