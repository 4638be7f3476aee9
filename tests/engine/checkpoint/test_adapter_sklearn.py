"""scikit-learn's partial_fit estimators resume bit for bit, in other processes, without pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.checkpoint import resume_worker
from engine.checkpoint.killed import run_killed
from holdfast.engine.checkpoint import CheckpointError, CheckpointUnreadable, TrainingState
from holdfast.engine.checkpoint.adapters.array_blob import unpack_arrays
from holdfast.engine.checkpoint.adapters.plain import ARRAYS_BLOB, MODEL_BLOB, REST_BLOB
from holdfast.engine.checkpoint.adapters.sklearn import TAKEN, SklearnAdapter
from holdfast.errors import ConfigError

pytest.importorskip("sklearn")


def train(kind: str, begin: int, end: int, state: TrainingState | None = None) -> TrainingState:
    adapter, step = resume_worker.make(kind)
    if state is not None:
        adapter.load_state(state)
    for number in range(begin, end + 1):
        step(number)
    return adapter.state()


@pytest.mark.parametrize(
    "kind",
    [
        "sgd-classifier",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("mlp-adam", "k-means")),
    ],
)
def test_a_run_killed_twice_ends_as_one_nobody_disturbed(kind: str, tmp_path: Path) -> None:
    undisturbed = run_killed(kind, tmp_path / "undisturbed", ())
    assert run_killed(kind, tmp_path / "killed", (5, 11)).blobs == undisturbed.blobs


@pytest.mark.parametrize("kind", resume_worker.PARTIAL_FIT)
def test_a_run_resumed_at_any_step_ends_in_the_same_bytes(kind: str) -> None:
    reference = train(kind, 1, 7)
    for stop in range(1, 7):
        assert train(kind, stop + 1, 7, train(kind, 1, stop)).blobs == reference.blobs, stop


@pytest.mark.parametrize("kind", resume_worker.PARTIAL_FIT)
def test_each_step_changes_the_model_so_the_test_above_can_fail(kind: str) -> None:
    states = [train(kind, 1, steps).blobs[MODEL_BLOB] for steps in (1, 2, 3)]
    assert len(set(states)) == 3


@pytest.mark.parametrize(
    ("kind", "attribute"),
    [
        ("mlp-adam", "_optimizer"),
        ("k-means", "_counts"),
        ("sgd-classifier", "t_"),
        ("sgd-classifier", "_standard_coef"),
    ],
)
def test_a_state_without_one_of_its_parts_ends_elsewhere(kind: str, attribute: str) -> None:
    state = train(kind, 1, 4)
    rest = json.loads(state.blobs[REST_BLOB])
    here = rest["estimators"]["model"]["attributes"]
    del here[attribute]
    if attribute == "t_":
        here[attribute] = 1.0  # as at the start
    blobs = {**state.blobs, REST_BLOB: json.dumps(rest).encode()}
    reference = train(kind, 1, 7).blobs
    try:
        ended = train(kind, 5, 7, TrainingState(blobs)).blobs
    except AttributeError:
        return  # it could not even go on
    assert ended[MODEL_BLOB] != reference[MODEL_BLOB]


def test_a_loaded_estimator_predicts_as_the_saved_one() -> None:
    adapter, step = resume_worker.make("sgd-classifier")
    for number in range(1, 5):
        step(number)
    again, _ = resume_worker.make("sgd-classifier")
    again.load_state(adapter.state())
    inputs, _ = resume_worker.rows()
    answers = [one.estimators["model"].predict(inputs) for one in (adapter, again)]
    assert answers[0].tolist() == answers[1].tolist()
    assert set(answers[0]) <= {"down", "flat", "up"}


def test_the_names_of_columns_survive() -> None:
    pandas = pytest.importorskip("pandas")
    from sklearn.linear_model import SGDRegressor

    inputs, targets = resume_worker.rows()
    frame = pandas.DataFrame(inputs, columns=list("abcdef"))
    before, after = SGDRegressor(random_state=1), SGDRegressor(random_state=1)
    SklearnAdapter(after).load_state(SklearnAdapter(before.partial_fit(frame, targets)).state())
    assert after.feature_names_in_.tolist() == list("abcdef")
    assert after.feature_names_in_.dtype == before.feature_names_in_.dtype


def test_ensembles_of_trees_are_refused_and_told_where_to_go() -> None:
    from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier

    for estimator in (GradientBoostingRegressor(warm_start=True), RandomForestClassifier(warm_start=True)):
        with pytest.raises(ConfigError, match=r"without pickle.*xgboost or the lightgbm adapter"):
            SklearnAdapter(estimator)


def test_a_class_derived_from_one_of_the_list_is_refused() -> None:
    from sklearn.linear_model import SGDRegressor

    class Own(SGDRegressor):
        pass

    with pytest.raises(ConfigError, match="Own"):
        SklearnAdapter(Own(random_state=1))


def test_an_estimator_on_numpys_global_generator_is_refused() -> None:
    from sklearn.linear_model import SGDRegressor

    with pytest.raises(ConfigError, match="random_state=None"):
        SklearnAdapter(SGDRegressor())


def test_other_parameters_other_estimators_and_other_versions_are_refused() -> None:
    from sklearn.linear_model import SGDRegressor
    from sklearn.preprocessing import StandardScaler

    inputs, targets = resume_worker.rows()
    saved = SklearnAdapter(SGDRegressor(random_state=1).partial_fit(inputs, targets)).state()
    for other in (SGDRegressor(random_state=1, alpha=0.5), SGDRegressor(random_state=2), StandardScaler()):
        with pytest.raises(CheckpointError, match="other estimators"):
            SklearnAdapter(other).load_state(saved)
        assert not hasattr(other, "coef_")
    rest = json.loads(saved.blobs[REST_BLOB]) | {"version": "0.1"}
    with pytest.raises(CheckpointError, match="other scikit-learn"):
        SklearnAdapter(SGDRegressor(random_state=1)).load_state(
            TrainingState({**saved.blobs, REST_BLOB: json.dumps(rest).encode()})
        )


def tampered(change: Any) -> TrainingState:
    state = train("mlp-adam", 1, 1)
    rest = json.loads(state.blobs[REST_BLOB])
    change(rest["estimators"]["model"]["attributes"])
    return TrainingState({**state.blobs, REST_BLOB: json.dumps(rest).encode()})


@pytest.mark.parametrize(
    "planted",
    [
        {"$object": "os.system", "attributes": {}},
        {"$object": "MLPClassifier", "attributes": {}},
        {"$pickle": "gASVBQAAAAAAAACMAXiULg=="},
        {"$array": "no such array"},
        {"$mt19937": 0, "state": [[1, 2], 0, 0, 0.0]},
        {"$mt19937": 3},
    ],
    ids=str,
)
def test_a_planted_object_is_refused_and_nothing_is_changed(planted: dict[str, Any]) -> None:
    adapter, _ = resume_worker.make("mlp-adam")
    before = dict(vars(adapter.estimators["model"]))
    with pytest.raises(CheckpointUnreadable):
        adapter.load_state(tampered(lambda attributes: attributes.update(_optimizer=planted)))
    assert vars(adapter.estimators["model"]) == before


def test_damaged_blobs_are_refused() -> None:
    state = train("gaussian", 1, 2)
    for blobs in (
        {name: blob for name, blob in state.blobs.items() if name != ARRAYS_BLOB},
        {**state.blobs, MODEL_BLOB: state.blobs[MODEL_BLOB][:-1]},
        {**state.blobs, REST_BLOB: b"[]"},
        {**state.blobs, REST_BLOB: b"{"},
    ):
        adapter, _ = resume_worker.make("gaussian")
        with pytest.raises(CheckpointUnreadable):
            adapter.load_state(TrainingState(blobs))


def test_every_estimator_of_the_list_learns_by_partial_fit_and_comes_back() -> None:
    import importlib

    inputs = np.abs(resume_worker.rows()[0])
    targets = np.arange(300) % 3
    for module, names in TAKEN.items():
        for name in names:
            kind = getattr(importlib.import_module(module), name)
            arguments = {"random_state": 3} if "random_state" in kind().get_params() else {}
            one, other = kind(**arguments), kind(**arguments)
            classes = {"classes": [0, 1, 2]} if hasattr(one, "predict_proba") or name == "Perceptron" else {}
            if name in ("SGDClassifier", "MLPClassifier"):
                classes = {"classes": [0, 1, 2]}
            one.partial_fit(inputs, targets, **classes)
            saved = SklearnAdapter(one).state()
            SklearnAdapter(other).load_state(saved)
            assert SklearnAdapter(other).state().blobs == saved.blobs, name
            one.partial_fit(inputs, targets)
            other.partial_fit(inputs, targets)
            assert SklearnAdapter(other).state().blobs == SklearnAdapter(one).state().blobs, name


def test_the_model_blob_holds_the_coefficients_also_where_sklearn_keeps_them_twice() -> None:
    state = train("sgd-classifier", 1, 1)  # its coef_ and _standard_coef are one array
    assert "model/coef_" in unpack_arrays(state.blobs[MODEL_BLOB], where="test")
