"""Hundreds of training runs that are killed, failed over, damaged and haunted, each run from one seed.

Each process is a real one, forked from a warm one, and dies by a real SIGKILL: in a step, right before or after a
write, or at whatever instant the parent chooses; or inside a write, where the kernel ends it at a byte. At least two
processes die in each run. In between its newest checkpoint is flipped or cut short, the run fails over to the other
site and back, a suspended process of the old epoch goes on writing, stores answer 503 or lose answers, a disk is full,
clocks are off by an hour or jump.

What must hold after each of it: the process goes on from the newest verified checkpoint of its lineage, by an oracle
that shares no code with the election, and never from zero while there is one; what is committed is whole; nothing an
epoch wrote after it was over is elected or in anybody's ancestry; and the last checkpoint has every byte of the state
that a run has which nobody disturbed.

A run is named by its adapter and seed: `pytest tests/faults/training -k plain-17` runs one again, and a failure prints
its scenario. `HOLDFAST_TRAINING_SEEDS=500,501` runs other seeds than the suite's. Where a kill at an instant falls, and
how threads interleave, is not of the seed: no verdict depends on it.

PyTorch's runs are in `test_torch_runs.py`; `test_mutants.py` shows that each part of the state and each rule of the
protocol is needed to pass.
"""

from __future__ import annotations

import pytest

from faults.training.scenario import ADAPTERS, STEPS, draw
from faults.training.suite import SEEDS, Suite, chosen_seeds

HERE = [adapter for adapter in ADAPTERS if adapter != "torch"]
QUICK = {"plain-0", "plain-1", "sklearn-2", "xgboost-3", "lightgbm-4"}
CASES = [
    pytest.param(adapter, seed, id=name, marks=() if name in QUICK else pytest.mark.slow)
    for adapter in HERE
    for seed in chosen_seeds(adapter)
    if (name := f"{adapter}-{seed}")
]


@pytest.mark.parametrize(("adapter", "seed"), CASES)
def test_a_disturbed_run_ends_as_the_undisturbed_one(adapter: str, seed: int, suite: Suite) -> None:
    scenario = draw(adapter, seed)
    print(scenario)
    suite.run(scenario)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", HERE)
def test_a_run_killed_at_any_write_ends_as_the_undisturbed_one(adapter: str, suite: Suite) -> None:
    suite.run_at_every_write(adapter)


@pytest.mark.slow
def test_every_kind_of_fault_was_met(suite: Suite, request: pytest.FixtureRequest) -> None:
    suite.require_all_met(request, sum(SEEDS[adapter] for adapter in HERE) - len(QUICK) + len(HERE))


def test_the_suite_has_its_size() -> None:
    assert sum(SEEDS.values()) >= 200
    assert SEEDS["torch"] >= 60
    assert min(SEEDS.values()) >= 25
    for adapter, count in SEEDS.items():
        for seed in range(count):
            scenario = draw(adapter, seed)
            assert scenario == draw(adapter, seed)
            deaths = [life.death for life in scenario.lives if life.death is not None and life.death.how != "asked"]
            assert len(deaths) >= 2, "killed twice or more"
            assert scenario.every < STEPS
