"""LightGBM, one boosting round per step, as `adapters.xgboost` does it and for the same reason.

LightGBM's own continuation is not exact once rows or columns are sampled: its generators are not in the model
(microsoft/LightGBM#6610). So every round begins with a booster made anew from the model's own text and seeded by a
function of the round: nothing hidden survives a round. The text gives each number back exactly (17 digits), and is
equal across processes and machines of one fingerprint. The price is that each round predicts with all trees so far,
and that a round's bag is its own: ``bagging_freq`` above 1 acts as 1.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from holdfast.engine.checkpoint.adapters.xgboost import check_seed, round_seed
from holdfast.engine.checkpoint.errors import CheckpointError, not_of_this_adapter
from holdfast.engine.checkpoint.state import TrainingState
from holdfast.errors import ConfigError

MODEL_BLOB = "model.txt"
#: LightGBM's own seeds, all of them given by the round, and the names it takes for ``seed`` itself.
_ROUND_SEEDS = ("bagging_seed", "feature_fraction_seed", "extra_seed", "drop_seed", "objective_seed")
_SEEDS = {*_ROUND_SEEDS, "seed", "random_seed", "random_state", "bagging_fraction_seed"} | {
    "data_random_seed",
    "data_seed",
}
_BOOSTING = ("boosting", "boosting_type", "boost")
_ROUNDS = {"num_iterations", "num_iteration", "n_iter", "num_tree", "num_trees", "num_round", "num_rounds"} | {
    "nrounds",
    "num_boost_round",
    "n_estimators",
    "max_iter",
    "early_stopping_round",
    "early_stopping_rounds",
    "early_stopping",
    "n_iter_no_change",
}
_THREADS = ("num_threads", "num_thread", "nthread", "nthreads", "n_jobs")


class LightGBMAdapter:
    """A booster that grows one round at a time and whose whole state is its own text.

    Args:
        parameters: LightGBM's. ``num_threads`` must be 1 for a bitwise resume on any machine; ``deterministic`` and
            ``force_row_wise`` are on unless given.
        data: a ``lightgbm.Dataset`` made with ``free_raw_data=False``: each round predicts on it.
        seed: of the run.

    Raises:
        ConfigError: a parameter that would make a resumed run another one.
    """

    def __init__(self, parameters: Mapping[str, Any], data: Any, *, seed: int) -> None:
        _check(parameters, data)
        fixed = {"deterministic": True, "force_row_wise": True, "verbosity": -1}
        fixed["data_random_seed"] = round_seed(seed, 0)  # how values are binned: the same each round
        self._parameters = {**fixed, **parameters}
        self._data = data
        self._seed = seed
        self._text: str | None = None
        #: The booster after the last step, for predicting and evaluating.
        self.booster: Any = None

    def step(self, round_number: int) -> None:
        """Train round ``round_number``, counted from 1."""
        lightgbm = importlib.import_module("lightgbm")
        seed = round_seed(self._seed, round_number)
        parameters = {**self._parameters, **dict.fromkeys(_ROUND_SEEDS, seed)}
        before = None if self._text is None else lightgbm.Booster(model_str=self._text)
        self.booster = lightgbm.train(parameters, self._data, num_boost_round=1, init_model=before)
        self._text = self.booster.model_to_string(num_iteration=-1)

    def state(self) -> TrainingState:
        if self._text is None:
            raise CheckpointError("there is no state before the first round", where="LightGBMAdapter.state")
        return TrainingState(
            {MODEL_BLOB: self._text.encode()},
            {"seed": str(self._seed), "rounds": self.booster.num_trees() // self.booster.num_model_per_iteration()},
            (MODEL_BLOB,),
            self.fingerprint(),
        )

    def fingerprint(self) -> dict[str, str]:
        """What of LightGBM the numbers depend on; there before the first round."""
        lightgbm = importlib.import_module("lightgbm")
        threads = next((str(self._parameters[name]) for name in _THREADS if name in self._parameters), "all")
        return {"lightgbm": lightgbm.__version__, "num_threads": threads}

    def load_state(self, state: TrainingState) -> None:
        """Go on from there; nothing is changed when it raises.

        Raises:
            CheckpointUnreadable: another adapter's checkpoint, or a text that is no model.
            CheckpointError: of a run with another seed.
        """
        where, expected = "LightGBMAdapter.load_state", f"the blob {MODEL_BLOB} of Booster.model_to_string"
        if MODEL_BLOB not in state.blobs:
            raise not_of_this_adapter(where, expected, f"the blobs {', '.join(sorted(state.blobs)) or '(none)'}")
        check_seed(state, self._seed, where=where)
        lightgbm = importlib.import_module("lightgbm")
        try:
            text = state.blobs[MODEL_BLOB].decode()
            self.booster = lightgbm.Booster(model_str=text)
        except (UnicodeDecodeError, lightgbm.basic.LightGBMError) as error:
            raise not_of_this_adapter(where, expected, str(error)) from None
        self._text = text


def _check(parameters: Mapping[str, Any], data: Any) -> None:
    boosting = next((parameters[name] for name in _BOOSTING if name in parameters), "gbdt")
    refused = {
        "a seed of its own": sorted(_SEEDS & parameters.keys()),
        "a number of rounds": sorted(_ROUNDS & parameters.keys()),
        "a boosting whose rounds change earlier trees": [boosting] if boosting not in ("gbdt", "gbrt", "goss") else [],
        "data whose raw values are freed": ["free_raw_data=True"] if getattr(data, "free_raw_data", False) else [],
        "an initial score, which the model of the round before replaces": ["init_score"]
        if getattr(data, "init_score", None) is not None
        else [],
    }
    for why, found in refused.items():
        if found:
            raise ConfigError(
                f"a run of one round per step cannot have {why}",
                where="LightGBMAdapter",
                expected="seeds and rounds from the run; gbdt or goss; Dataset(…, free_raw_data=False)",
                found=", ".join(found),
                fix="Leave it out; `seed` of the adapter and the round number decide every draw",
            )
