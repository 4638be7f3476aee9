"""Thousands of operations in any order on a vault beside a model of it: see `vault_machine`."""

from __future__ import annotations

import pytest

from vault_machine import run_machine

pytestmark = pytest.mark.usefixtures("same_each_time")


def test_no_backup_is_lost_and_nothing_is_left_over() -> None:
    assert run_machine(examples=12, steps=40) >= 400


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_backup_is_lost_in_ten_thousand_steps() -> None:
    assert run_machine(examples=300, steps=50) >= 10_000
