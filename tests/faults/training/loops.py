"""The training loops of the suite: small, and each part of their state decides what the next step does."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from engine.checkpoint import resume_worker
from faults.training.scenario import STEPS
from holdfast.engine.checkpoint.adapters.plain import PlainAdapter
from holdfast.engine.checkpoint.order import DataOrder, Position, sample_rng

SEED = 7
ROWS = 60


class Loop(Protocol):
    """A model in training. Counted from 1, ``step(n)`` is the n-th."""

    adapter: Any

    def step(self, number: int) -> None: ...


class Plain:
    """Weights, moments, a generator and a place in the data: a trainer of one's own."""

    def __init__(self, flavour: int) -> None:
        self.order = DataOrder(ROWS, SEED)
        self.position = Position()
        self.weights = np.zeros(6)
        self.moments = [np.zeros(6), np.zeros(6)]
        self.rng = np.random.default_rng(3 + flavour % 2)
        self.adapter = PlainAdapter(self, model=("weights",))

    def step(self, number: int) -> None:
        inputs, targets = resume_worker.rows()
        batch = next(self.order.batches(25, self.position))
        drawn = inputs[batch.samples] + self.rng.normal(0, 0.1, (len(batch.samples), 6))
        drawn *= sample_rng(SEED, batch.epoch, int(batch.samples[0])).uniform(0.9, 1.1)
        slope = drawn.T @ (drawn @ self.weights - targets[batch.samples]) / len(drawn)
        for moment, now, keep in zip(self.moments, (slope, slope**2), (0.9, 0.99), strict=True):
            moment *= keep
            moment += (1 - keep) * now
        self.weights -= 0.1 * self.moments[0] / (np.sqrt(self.moments[1]) + 1e-8)
        self.position = batch.next

    def state(self) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "moments": self.moments,
            "rng": self.rng.bit_generator.state,
            "data": self.order.state(self.position),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.weights, self.moments = state["weights"], state["moments"]
        self.rng.bit_generator.state = state["rng"]
        self.position = self.order.position(state["data"])


class Worked:
    """A loop of `resume_worker`, whose data follow from the step."""

    def __init__(self, kind: str) -> None:
        self.adapter, self._step = resume_worker.make(kind)

    def step(self, number: int) -> None:
        self._step(number)


class XGBoost:
    """Rows and columns sampled, one round a step."""

    def __init__(self, flavour: int) -> None:
        from holdfast.engine.checkpoint.adapters.xgboost import BoosterAdapter, import_xgboost

        inputs, targets = resume_worker.rows()
        self.data = import_xgboost().DMatrix(inputs, label=targets, nthread=1)
        self.parameters = {
            "objective": ("reg:squarederror", "reg:pseudohubererror")[flavour % 2],
            "max_depth": 2,
            "eta": 0.2,
            "subsample": 0.6,
            "colsample_bynode": 0.6,
            "tree_method": "hist",
            "nthread": 1,
        }
        self.adapter = BoosterAdapter(self.parameters, self.data, seed=SEED)

    def step(self, number: int) -> None:
        self.adapter.step(number)


class Torch:
    """Dropout, BatchNorm, AdamW, a schedule, loss scaling, shuffled data, and augmentation from every generator."""

    def __init__(self, flavour: int) -> None:
        import torch

        from holdfast.engine.checkpoint.adapters.torch import TorchAdapter

        torch.set_num_threads(1)
        self.torch = torch
        random.seed(SEED)
        np.random.seed(SEED)
        torch.manual_seed(SEED)
        first = torch.nn.Linear(6, 8)
        layers = [first, torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1)]
        if flavour % 2:
            frozen = torch.nn.Linear(6, 6)
            frozen.requires_grad_(False)
            layers.insert(0, frozen)
        self.module = torch.nn.Sequential(*layers)
        trained = [one for one in self.module.parameters() if one.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, max_lr=5e-2, total_steps=3 * STEPS)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3)
        self.augmenting = torch.Generator().manual_seed(SEED)
        inputs, targets = resume_worker.rows()
        self.inputs = torch.tensor(inputs[:ROWS], dtype=torch.float32)
        self.targets = torch.tensor(targets[:ROWS, None], dtype=torch.float32)
        self.order = DataOrder(ROWS, SEED)
        self.position = Position()
        self.adapter = TorchAdapter(
            self.module,
            self.optimizer,
            scheduler=self.scheduler,
            scaler=self.scaler,
            generators={"augmenting": self.augmenting},
            extra=lambda: self.order.state(self.position),
            load_extra=self._load_position,
        )

    def _load_position(self, state: Any) -> None:
        self.position = self.order.position(state)

    def step(self, number: int) -> None:
        torch = self.torch
        batch = next(self.order.batches(25, self.position))
        rows = torch.from_numpy(batch.samples)
        shift = random.gauss(0, 0.1) + float(np.random.normal(0, 0.1))
        noise = 0.1 * torch.randn(len(rows), 6, generator=self.augmenting)
        loss = ((self.module(self.inputs[rows] + shift + noise) - self.targets[rows]) ** 2).mean()
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        self.position = batch.next


SKLEARN = ("sgd-regressor", "sgd-classifier", "mlp-adam", "mlp-sgd", "k-means")
LIGHTGBM = ("trees-sampled", "trees-extra", "trees-goss")

LOOPS: dict[str, Callable[[int], Any]] = {
    "plain": Plain,
    "sklearn": lambda flavour: Worked(SKLEARN[flavour % len(SKLEARN)]),
    "xgboost": XGBoost,
    "lightgbm": lambda flavour: Worked(LIGHTGBM[flavour % len(LIGHTGBM)]),
    "torch": Torch,
}
#: So many different models an adapter has here.
FLAVOURS = {"plain": 2, "sklearn": len(SKLEARN), "xgboost": 2, "lightgbm": len(LIGHTGBM), "torch": 2}


def make(adapter: str, flavour: int) -> Any:
    """A fresh loop, as every process begins with."""
    return LOOPS[adapter](flavour)
