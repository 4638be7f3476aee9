"""Thousands of operations in any order on a vault beside a model of it: see `vault_machine`."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from vault_machine import VaultMachine


def run(examples: int, steps: int) -> int:
    """How many steps were made."""
    before = VaultMachine.steps
    run_state_machine_as_test(
        VaultMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        ),
    )
    return VaultMachine.steps - before


def test_no_backup_is_lost_and_nothing_is_left_over() -> None:
    assert run(examples=12, steps=40) >= 400


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_backup_is_lost_in_ten_thousand_steps() -> None:
    assert run(examples=240, steps=50) >= 10_000
