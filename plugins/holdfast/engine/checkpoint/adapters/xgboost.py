"""Gradient-boosted trees, one boosting round per step.

XGBoost's own continuation is not exact once rows or columns are sampled: its generators, the column sampler's among
them, are not in the model (dmlc/xgboost#10324, #11982). So every round begins with a booster made anew from the
model's own bytes and seeded by a function of the round: nothing hidden survives a round, hence nothing can be lost
with a process. The raw model bytes are equal across processes and machines of one fingerprint. The price is that
each round predicts with all trees so far: about 5 s for 300 rounds of 5,000 rows on one core.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Mapping
from typing import Any

from holdfast.engine.checkpoint.errors import CheckpointError, not_of_this_adapter
from holdfast.engine.checkpoint.state import TrainingState

MODEL_BLOB = "model.ubj"


def round_seed(seed: int, round_number: int) -> int:
    """The seed of one round: 31 bits that depend on nothing but the two numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{round_number}".encode()).digest()[:4], "big") & 0x7FFFFFFF


def import_xgboost() -> Any:
    """xgboost without scikit-learn, which it imports when it finds it and never needs for boosting: seconds sooner."""
    if "xgboost" in sys.modules or "sklearn" in sys.modules:
        return importlib.import_module("xgboost")
    sys.modules["sklearn"] = None  # type: ignore[assignment]  # Python's way to say: this import fails
    try:
        return importlib.import_module("xgboost")
    finally:
        del sys.modules["sklearn"]


class BoosterAdapter:
    """A booster that grows one round at a time and whose whole state is its own bytes.

    Args:
        parameters: XGBoost's. ``nthread`` must be 1 for a bitwise resume: with more, sums are added in any order.
        data: an ``xgboost.DMatrix``.
        seed: of the run.
    """

    def __init__(self, parameters: Mapping[str, Any], data: Any, *, seed: int) -> None:
        self._parameters = dict(parameters)
        self._data = data
        self._seed = seed
        self._raw: bytes | None = None
        #: The booster after the last step, for predicting and evaluating.
        self.booster: Any = None

    def step(self, round_number: int) -> None:
        """Train round ``round_number``, counted from 1."""
        booster = self._load({**self._parameters, "seed": round_seed(self._seed, round_number)}, self._raw)
        booster.update(self._data, round_number - 1)
        self.booster, self._raw = booster, bytes(booster.save_raw(raw_format="ubj"))

    def state(self) -> TrainingState:
        blobs = {} if self._raw is None else {MODEL_BLOB: self._raw}
        rounds = 0 if self.booster is None else self.booster.num_boosted_rounds()
        return TrainingState(blobs, {"seed": str(self._seed), "rounds": rounds}, (MODEL_BLOB,), self.fingerprint())

    def fingerprint(self) -> dict[str, str]:
        """What of XGBoost the numbers depend on."""
        return {"xgboost": import_xgboost().__version__, "nthread": str(self._parameters.get("nthread", "all"))}

    def load_state(self, state: TrainingState) -> None:
        """Go on from there; nothing is changed when it raises.

        Raises:
            CheckpointUnreadable: another adapter's checkpoint, or bytes that are no model.
            CheckpointError: of a run with another seed.
        """
        where, expected = "BoosterAdapter.load_state", f"the blob {MODEL_BLOB} of Booster.save_raw"
        if MODEL_BLOB not in state.blobs:
            raise not_of_this_adapter(where, expected, f"the blobs {', '.join(sorted(state.blobs)) or '(none)'}")
        check_seed(state, self._seed, where=where)
        raw = state.blobs[MODEL_BLOB]
        try:
            self.booster = self._load(self._parameters, raw)
        except import_xgboost().core.XGBoostError as error:
            raise not_of_this_adapter(where, expected, str(error).strip().splitlines()[0]) from None
        self._raw = raw

    def _load(self, parameters: Mapping[str, Any], raw: bytes | None) -> Any:
        booster = import_xgboost().Booster(dict(parameters), [self._data])
        if raw is not None:
            booster.load_model(bytearray(raw))
        return booster


def check_seed(state: TrainingState, seed: int, *, where: str) -> None:
    """Raises CheckpointError: the checkpoint's draws are not those of this seed."""
    if (found := state.values.get("seed")) != str(seed):
        raise CheckpointError(
            "the checkpoint is of a run with another seed",
            where=where,
            expected=str(seed),
            found=str(found),
            fix="Resume with the seed the run began with, or begin a run of another name",
        )
