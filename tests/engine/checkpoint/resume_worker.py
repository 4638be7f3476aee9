"""Trains in a process of its own, saves every third step, and kills itself where it is told to.

python resume_worker.py KIND FOLDER STEPS KILL_AFTER_STEP
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.engine.checkpoint.state import TrainingState

SAVE_EVERY = 3
Step = Callable[[int], object]


def rows() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(300, 6))
    return inputs, inputs @ np.arange(6.0) + rng.normal(size=300)


def part(step: int) -> tuple[Any, Any]:
    inputs, targets = rows()
    picked = np.random.default_rng(step).integers(0, 300, 40)
    return inputs[picked], targets[picked]


def lightgbm(parameters: dict[str, Any]) -> tuple[Any, Step]:
    from lightgbm import Dataset

    from holdfast.engine.checkpoint.adapters.lightgbm import LightGBMAdapter

    inputs, targets = rows()
    fixed = {"num_threads": 1, "num_leaves": 7, "min_data_in_leaf": 5, **parameters}
    adapter = LightGBMAdapter(fixed, Dataset(inputs, targets, free_raw_data=False), seed=7)
    return adapter, adapter.step


def sklearn(estimator: Any, *, classes: Any = None, scaled: bool = False) -> tuple[Any, Step]:
    from sklearn.preprocessing import StandardScaler

    from holdfast.engine.checkpoint.adapters.sklearn import SklearnAdapter

    scaler = StandardScaler()
    adapter = SklearnAdapter({"scaler": scaler, "model": estimator} if scaled else estimator)

    def step(number: int) -> None:
        inputs, targets = part(number)
        if scaled:
            inputs = scaler.partial_fit(inputs).transform(inputs)
        if classes is not None:
            estimator.partial_fit(inputs, np.array(classes)[np.digitize(targets, [-3, 3])], classes=classes)
        elif type(estimator).__name__ in ("MiniBatchKMeans", "IncrementalPCA", "BernoulliRBM"):
            estimator.partial_fit(inputs)
        else:
            estimator.partial_fit(inputs, targets)

    return adapter, step


class Walk:
    """A trainer of one's own: weights, moments and a generator."""

    def __init__(self) -> None:
        self.weights, self.moments, self.rng = np.zeros(6), [np.zeros(6), np.zeros(6)], np.random.default_rng(3)

    def step(self, _number: int) -> None:
        inputs, targets = rows()
        picked = self.rng.integers(0, 300, 20)
        slope = inputs[picked].T @ (inputs[picked] @ self.weights - targets[picked]) / 20
        for moment, now, keep in zip(self.moments, (slope, slope**2), (0.9, 0.99), strict=True):
            moment *= keep
            moment += (1 - keep) * now
        self.weights -= 0.1 * self.moments[0] / (np.sqrt(self.moments[1]) + 1e-8)

    def state(self) -> dict[str, Any]:
        return {"weights": self.weights, "moments": self.moments, "rng": self.rng.bit_generator.state}

    def load_state(self, state: Any) -> None:
        self.weights, self.moments = state["weights"], state["moments"]
        self.rng.bit_generator.state = state["rng"]


def plain() -> tuple[Any, Step]:
    from holdfast.engine.checkpoint.adapters.plain import PlainAdapter

    walk = Walk()
    return PlainAdapter(walk, model=("weights",)), walk.step


class TorchRows:
    """The rows as a map-style dataset."""

    def __init__(self) -> None:
        self.inputs, self.targets = rows()

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Any:
        return self.inputs[index], self.targets[index]


def noisy(sample: Any, rng: Any) -> Any:
    inputs, target = sample
    return inputs + rng.normal(0, 0.1, inputs.shape), target


class TorchLoop:
    """Linear regression on shuffled, augmented rows; 5 batches an epoch, so that a run crosses epochs."""

    def __init__(self, workers: int) -> None:
        import torch

        from holdfast.engine.checkpoint.loader import torch_loader
        from holdfast.engine.checkpoint.order import DataOrder

        torch.set_num_threads(1)
        self.torch = torch
        self.weights = torch.zeros(6, dtype=torch.float64)
        self.loader = torch_loader(TorchRows(), DataOrder(300, 7), batch_size=64, workers=workers, augment=noisy)
        self.batches: Any = None

    def step(self, _number: int) -> None:
        if self.batches is None:
            self.batches = iter(self.loader)
        inputs, targets = next(self.batches)
        self.weights -= 0.05 * (inputs.T @ (inputs @ self.weights - targets)) / len(inputs)

    def state(self) -> dict[str, Any]:
        return {"weights": self.weights.numpy().copy(), "data": self.loader.state()}

    def load_state(self, state: Any) -> None:
        self.weights = self.torch.from_numpy(state["weights"])
        self.loader.load_state(state["data"])


def torch_loop(workers: int) -> tuple[Any, Step]:
    from holdfast.engine.checkpoint.adapters.plain import PlainAdapter

    loop = TorchLoop(workers)
    return PlainAdapter(loop, model=("weights",)), loop.step


def estimators() -> dict[str, Callable[[], tuple[Any, Step]]]:
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.decomposition import IncrementalPCA
    from sklearn.linear_model import Perceptron, SGDClassifier, SGDRegressor
    from sklearn.naive_bayes import BernoulliNB, GaussianNB
    from sklearn.neural_network import BernoulliRBM, MLPClassifier, MLPRegressor

    words, numbers = ["down", "flat", "up"], [0, 1, 2]
    given = np.random.RandomState(5)
    return {
        "sgd-classifier": lambda: sklearn(SGDClassifier(random_state=1, average=50), classes=words, scaled=True),
        "sgd-regressor": lambda: sklearn(SGDRegressor(random_state=given, learning_rate="adaptive", average=True)),
        "perceptron": lambda: sklearn(
            Perceptron(random_state=1, class_weight={0: 2.0, 1: 1.0, 2: 1.0}), classes=numbers
        ),
        "mlp-adam": lambda: sklearn(MLPClassifier(hidden_layer_sizes=(8, 4), random_state=1), classes=words),
        "mlp-sgd": lambda: sklearn(MLPRegressor(hidden_layer_sizes=(8,), solver="sgd", random_state=given)),
        "k-means": lambda: sklearn(MiniBatchKMeans(4, random_state=1, reassignment_ratio=0.3, n_init=2)),
        "pca": lambda: sklearn(IncrementalPCA(3)),
        "rbm": lambda: sklearn(BernoulliRBM(4, random_state=given)),
        "gaussian": lambda: sklearn(GaussianNB(), classes=words),
        "bernoulli": lambda: sklearn(BernoulliNB(), classes=numbers),
    }


SAMPLED = {"bagging_fraction": 0.6, "bagging_freq": 1, "feature_fraction": 0.6, "feature_fraction_bynode": 0.7}
TREES = {
    "trees-sampled": {**SAMPLED, "objective": "regression"},
    "trees-extra": {"objective": "huber", "extra_trees": True},
    "trees-goss": {"objective": "regression", "data_sample_strategy": "goss", "learning_rate": 0.3},
}
PARTIAL_FIT = [
    "sgd-classifier",
    "sgd-regressor",
    "perceptron",
    "mlp-adam",
    "mlp-sgd",
    "k-means",
    "pca",
    "rbm",
    "gaussian",
    "bernoulli",
]


def make(kind: str) -> tuple[Any, Step]:
    if kind.startswith("torch-"):
        return torch_loop(int(kind.removeprefix("torch-")))
    if kind == "plain":
        return plain()
    return lightgbm(TREES[kind]) if kind in TREES else estimators()[kind]()


def save(folder: Path, step: int, state: TrainingState) -> None:
    """Whole or not at all: what is killed while it writes leaves a folder nobody reads."""
    new = folder / f"new-{os.getpid()}-{step}"
    new.mkdir()
    for name, blob in state.blobs.items():
        (new / name).write_bytes(blob)
    (new / "values").write_text(json.dumps(dict(state.values)))
    new.rename(folder / f"step-{step:06d}")


def newest(folder: Path) -> tuple[int, TrainingState] | None:
    saved = sorted(folder.glob("step-*"))
    if not saved:
        return None
    blobs = {path.name: path.read_bytes() for path in saved[-1].iterdir() if path.name != "values"}
    values = json.loads((saved[-1] / "values").read_text())
    return int(saved[-1].name.removeprefix("step-")), TrainingState(blobs, values)


def main(kind: str, folder: Path, steps: int, kill_after: int) -> None:
    adapter, step = make(kind)
    begin = 0
    if (found := newest(folder)) is not None:
        begin, state = found
        adapter.load_state(state)
    for number in range(begin + 1, steps + 1):
        step(number)
        if number == kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if number % SAVE_EVERY == 0 or number == steps:
            save(folder, number, adapter.state())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
