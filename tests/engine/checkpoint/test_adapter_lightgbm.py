"""LightGBM resumes bit for bit, killed and in other processes, although rows and columns are sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.checkpoint import resume_worker
from engine.checkpoint.killed import run_killed
from holdfast.engine.checkpoint import Checkpointer, CheckpointError, TrainingState
from holdfast.engine.checkpoint.adapters.lightgbm import MODEL_BLOB, LightGBMAdapter
from holdfast.engine.objectstore import memory_store
from holdfast.errors import ConfigError

lightgbm = pytest.importorskip("lightgbm")


def grow(parameters: dict[str, Any], begin: int, end: int, state: TrainingState | None = None) -> TrainingState:
    adapter, step = resume_worker.lightgbm(parameters)
    if state is not None:
        adapter.load_state(state)
    for number in range(begin, end + 1):
        step(number)
    return adapter.state()


_FIRST, *_OTHERS = sorted(resume_worker.TREES)


@pytest.mark.parametrize("kind", [_FIRST, *(pytest.param(kind, marks=pytest.mark.slow) for kind in _OTHERS)])
def test_a_run_killed_twice_has_the_model_of_one_nobody_disturbed(kind: str, tmp_path: Path) -> None:
    undisturbed = run_killed(kind, tmp_path / "undisturbed", ())
    assert run_killed(kind, tmp_path / "killed", (5, 11)).blobs == undisturbed.blobs


@pytest.mark.parametrize("kind", sorted(resume_worker.TREES))
def test_a_model_resumed_at_any_round_has_the_same_bytes(kind: str) -> None:
    parameters = resume_worker.TREES[kind]
    reference = grow(parameters, 1, 8)
    for stop in range(1, 8):
        assert grow(parameters, stop + 1, 8, grow(parameters, 1, stop)).blobs == reference.blobs, stop


def test_lightgbms_own_continuation_differs_so_the_tests_above_can_fail() -> None:
    inputs, targets = resume_worker.rows()
    parameters = {**resume_worker.TREES["trees-sampled"], "verbosity": -1, "num_threads": 1, "seed": 7}

    def data() -> Any:
        return lightgbm.Dataset(inputs, targets, free_raw_data=False)

    whole = lightgbm.train(parameters, data(), 8).predict(inputs)
    half = lightgbm.train(parameters, data(), 4)
    assert abs(lightgbm.train(parameters, data(), 4, init_model=half).predict(inputs) - whole).max() > 1e-3


def test_what_is_learned_is_more_each_round() -> None:
    inputs, targets = resume_worker.rows()
    adapter, step = resume_worker.lightgbm(resume_worker.TREES["trees-sampled"])
    errors = []
    for number in range(1, 7):
        step(number)
        errors.append(float(((adapter.booster.predict(inputs) - targets) ** 2).mean()))
    assert errors == sorted(errors, reverse=True)
    assert adapter.state().values == {"seed": "7", "rounds": 6}


@pytest.mark.parametrize(
    "parameters",
    [{"bagging_seed": 3}, {"seed": 3}, {"boosting": "dart"}, {"num_trees": 10}, {"early_stopping_round": 3}],
    ids=str,
)
def test_a_parameter_that_breaks_the_resume_is_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(map(str, parameters.values()))) + "|" + next(iter(parameters))):
        resume_worker.lightgbm(parameters)


def test_data_that_cannot_be_predicted_on_is_refused() -> None:
    inputs, targets = resume_worker.rows()
    with pytest.raises(ConfigError, match="free_raw_data"):
        LightGBMAdapter({}, lightgbm.Dataset(inputs, targets), seed=1)
    with pytest.raises(ConfigError, match="init_score"):
        LightGBMAdapter({}, lightgbm.Dataset(inputs, targets, init_score=targets, free_raw_data=False), seed=1)


def test_another_runs_seed_and_a_damaged_model_are_refused() -> None:
    adapter, step = resume_worker.lightgbm({"objective": "regression"})
    with pytest.raises(CheckpointError, match="before the first round"):
        adapter.state()
    step(1)
    state = adapter.state()
    with pytest.raises(CheckpointError, match="another seed"):
        adapter.load_state(TrainingState(state.blobs, {"seed": "8", "rounds": 1}))
    for blobs in ({}, {MODEL_BLOB: b"\xff"}, {MODEL_BLOB: b"no model at all"}):
        with pytest.raises(CheckpointError, match="not one of this adapter"):
            adapter.load_state(TrainingState(blobs, state.values))
    assert adapter.state().blobs == state.blobs


def test_a_fresh_adapter_can_be_handed_to_resume() -> None:
    """It has no state yet, but the election wants to know its environment."""
    store = memory_store()

    def run(steps: int) -> TrainingState:
        adapter, step = resume_worker.lightgbm(resume_worker.TREES["trees-sampled"])
        saving = Checkpointer(store, "run", epoch=1, site="site-a", every_steps=2)
        resumed = saving.resume(adapter)
        assert resumed is None or resumed.resume == "bitwise"
        with saving:
            for number in range(resumed.step + 1 if resumed else 1, steps + 1):
                step(number)
                saving.step(number, adapter)
            saving.finish(adapter)
        return adapter.state()

    run(3)
    assert run(8).blobs == grow(resume_worker.TREES["trees-sampled"], 1, 8).blobs
