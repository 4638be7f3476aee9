"""Boosted trees resume bit for bit although rows and columns are sampled."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.engine.checkpoint import CheckpointError, CheckpointUnreadable, TrainingState
from holdfast.engine.checkpoint.adapters.xgboost import MODEL_BLOB, BoosterAdapter, import_xgboost, round_seed

pytest.importorskip("xgboost")
PARAMETERS = {
    "objective": "reg:squarederror",
    "max_depth": 3,
    "eta": 0.1,
    "subsample": 0.7,
    "colsample_bynode": 0.7,
    "tree_method": "hist",
    "nthread": 1,
}


def adapter(seed: int = 7) -> BoosterAdapter:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 6))
    data = import_xgboost().DMatrix(rows, label=rows @ np.arange(6.0) + rng.normal(size=300), nthread=1)
    return BoosterAdapter(PARAMETERS, data, seed=seed)


def grow(it: BoosterAdapter, begin: int, end: int) -> bytes:
    for round_number in range(begin, end + 1):
        it.step(round_number)
    return it.state().blobs[MODEL_BLOB]


def test_a_model_resumed_at_any_round_has_the_same_bytes() -> None:
    reference = grow(adapter(), 1, 12)
    for stop in range(1, 12):
        first, second = adapter(), adapter()
        grow(first, 1, stop)
        second.load_state(first.state())
        assert grow(second, stop + 1, 12) == reference, f"resumed after round {stop}"


def test_the_seed_matters_so_the_test_above_can_fail() -> None:
    assert grow(adapter(7), 1, 12) != grow(adapter(8), 1, 12)


def test_round_seeds_differ_and_are_31_bits() -> None:
    seeds = {round_seed(seed, round_number) for seed in range(20) for round_number in range(50)}
    assert len(seeds) == 1000
    assert max(seeds) < 2**31


def test_a_checkpoint_of_another_seed_is_refused() -> None:
    first, second = adapter(7), adapter(8)
    grow(first, 1, 2)
    with pytest.raises(CheckpointError, match=r"another seed.*expected 8.*found 7"):
        second.load_state(first.state())
    assert second.booster is None


@pytest.mark.parametrize(
    ("blobs", "found"), [({"rest.json": b"{}"}, "rest.json"), ({}, "none"), ({MODEL_BLOB: b"no model"}, "")]
)
def test_another_adapters_checkpoint_is_refused_and_nothing_changes(blobs: dict[str, bytes], found: str) -> None:
    first, reference = adapter(), grow(adapter(), 1, 3)
    grow(first, 1, 2)
    with pytest.raises(CheckpointUnreadable, match=f"not one of this adapter.*{MODEL_BLOB}.*{found}"):
        first.load_state(TrainingState(blobs, {"seed": "7"}))
    assert grow(first, 3, 3) == reference
