from __future__ import annotations

import pytest

from faults.training.scenario import draw
from faults.training.suite import Suite, chosen_seeds

CASES = [(a, s) for a in ("plain", "sklearn", "xgboost", "lightgbm", "torch") for s in chosen_seeds(40)]


@pytest.mark.parametrize(("adapter", "seed"), CASES)
def test_it(adapter, seed, suite: Suite):
    sc = draw(adapter, seed)
    print(sc)
    suite.run(sc)


def test_zz(suite):
    print(suite.tally, suite.tally.absent())
    assert not suite.tally.absent()
