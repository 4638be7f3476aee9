"""Gradient-boosted trees, one boosting round per step.

XGBoost's own continuation is not exact once rows or columns are sampled: its generator does not survive
(dmlc/xgboost#10324, #11982). One round per ``train`` call, seeded by a function of the round, is exact, and the raw
model bytes are then equal across processes and machines of one fingerprint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from holdfast.engine.checkpoint.state import TrainingState

MODEL_BLOB = "model.ubj"


def round_seed(seed: int, round_number: int) -> int:
    """The seed of one round: 31 bits that depend on nothing but the two numbers."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{round_number}".encode()).digest()[:4], "big") & 0x7FFFFFFF


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
        self.booster: Any = None

    def step(self, round_number: int) -> None:
        """Train round ``round_number``, counted from 1."""
        import xgboost

        parameters = {**self._parameters, "seed": round_seed(self._seed, round_number)}
        self.booster = xgboost.train(parameters, self._data, num_boost_round=1, xgb_model=self.booster)

    def state(self) -> TrainingState:
        import xgboost

        blobs = {} if self.booster is None else {MODEL_BLOB: bytes(self.booster.save_raw(raw_format="ubj"))}
        values = {"seed": str(self._seed), "rounds": 0 if self.booster is None else self.booster.num_boosted_rounds()}
        return TrainingState(blobs, values, (MODEL_BLOB,),
                             {"xgboost": xgboost.__version__, "nthread": str(self._parameters.get("nthread", "all"))})

    def load_state(self, state: TrainingState) -> None:
        import xgboost

        booster = xgboost.Booster(params={key: value for key, value in self._parameters.items() if key == "nthread"})
        booster.load_model(bytearray(state.blobs[MODEL_BLOB]))
        self.booster = booster
