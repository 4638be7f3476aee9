"""Any trainer that tells its state as nested JSON, bytes and NumPy arrays: nothing is known of a framework here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from holdfast.engine.checkpoint.adapters.array_blob import pack_arrays, unpack_arrays
from holdfast.engine.checkpoint.adapters.nested import Decoder, Encoder
from holdfast.engine.checkpoint.errors import CheckpointError, CheckpointUnreadable
from holdfast.engine.checkpoint.state import TrainingState

MODEL_BLOB, ARRAYS_BLOB, REST_BLOB = "model.safetensors", "arrays.safetensors", "rest.json"


@runtime_checkable
class Plain(Protocol):
    """What a trainer of one's own needs to have."""

    def state(self) -> Mapping[str, Any]:
        """Everything the next step depends on: JSON values, bytes and NumPy arrays, nested as one likes."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` gave; arrays are the receiver's own."""


class PlainAdapter:
    """A `Plain` trainer as an adapter.

    Args:
        trainer: it.
        model: which entries of its state are the model: the digest compared after a resume is of their arrays. By
            default all of it is.
    """

    def __init__(self, trainer: Plain, *, model: tuple[str, ...] = ()) -> None:
        self._trainer = trainer
        self._model = model

    def state(self) -> TrainingState:
        """A copy. Raises CheckpointError: something in it needs pickle, or ``model`` names what is not there."""
        told = self._trainer.state()
        if missing := [name for name in self._model if name not in told]:
            raise CheckpointError(
                "the state has not what was called the model",
                where="PlainAdapter",
                expected=", ".join(missing),
                found=", ".join(sorted(told)),
            )
        encoder = Encoder()
        rest = {name: encoder.encode(value, name) for name, value in told.items()}
        return to_state(rest, encoder, lambda path: path.partition("/")[0] in self._model, whole=not self._model)

    def load_state(self, state: TrainingState) -> None:
        """Raises CheckpointUnreadable: damaged, or with something in it that this adapter does not write."""
        rest, arrays = from_state(state, where="PlainAdapter")
        self._trainer.load_state(Decoder(arrays).decode(rest))


def to_state(rest: Any, encoder: Encoder, is_model: Any, *, whole: bool = False, **more: Any) -> TrainingState:
    """Blobs of an encoded value: the arrays that ``is_model(path)``, the other arrays, the JSON."""
    model = {name: array for name, array in encoder.arrays.items() if is_model(name)}
    other = {name: array for name, array in encoder.arrays.items() if name not in model}
    blobs = {MODEL_BLOB: pack_arrays(model), ARRAYS_BLOB: pack_arrays(other), REST_BLOB: to_json(rest)}
    return TrainingState(blobs, model=tuple(sorted(blobs)) if whole else (MODEL_BLOB,), **more)


def from_state(state: TrainingState, *, where: str) -> tuple[Any, dict[str, Any]]:
    """The JSON and the arrays of `to_state`. Raises CheckpointUnreadable."""
    arrays: dict[str, Any] = {}
    try:
        for name in (MODEL_BLOB, ARRAYS_BLOB):
            arrays |= unpack_arrays(state.blobs[name], where=f"{where}: {name}")
        return json.loads(state.blobs[REST_BLOB]), arrays
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointUnreadable(
            "the checkpoint is not one of this adapter",
            where=where,
            expected=f"the blobs {MODEL_BLOB}, {ARRAYS_BLOB} and {REST_BLOB}",
            found=f"{', '.join(sorted(state.blobs))} ({error})",
        ) from None


def to_json(value: Any) -> bytes:
    # Python's own JSON: it tells 1.0 from 1, keeps integers of any size and gives each float back as it was.
    return json.dumps(value, separators=(",", ":")).encode()
