"""The fault suite's runs of PyTorch; `test_runs.py` says what they are and how to run one again."""

from __future__ import annotations

import pytest

from faults.training.mutants import PARTS
from faults.training.orchestrator import Violation
from faults.training.scenario import draw
from faults.training.suite import SEEDS, Suite, chosen_seeds, telling

pytest.importorskip("torch")
pytest.importorskip("safetensors")
pytestmark = pytest.mark.torch


@pytest.mark.parametrize("seed", chosen_seeds("torch"), ids=lambda seed: f"torch-{seed}")
def test_a_disturbed_run_ends_as_the_undisturbed_one(seed: int, suite: Suite) -> None:
    scenario = draw("torch", seed)
    print(scenario)
    suite.run(scenario)


def test_a_run_killed_at_any_write_ends_as_the_undisturbed_one(suite: Suite) -> None:
    suite.run_at_every_write("torch")


def test_every_kind_of_fault_was_met(suite: Suite, request: pytest.FixtureRequest) -> None:
    suite.require_all_met(request, SEEDS["torch"] + 1, "saved in mode overlap")


@pytest.mark.parametrize("part", PARTS["torch"])
def test_each_part_of_the_state_is_needed(part: str, suite: Suite) -> None:
    with pytest.raises(Violation, match="the result is another"):
        suite.run_until_violation(telling("torch", PARTS["torch"][part][0]), mutant=part)


def test_the_runs_that_show_it_pass_with_all_parts(suite: Suite) -> None:
    for scenario in telling("torch", 0):
        suite.run(scenario)
