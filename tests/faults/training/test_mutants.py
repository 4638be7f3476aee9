"""The fault suite fails when a part of the state is forgotten or a rule of the protocol is broken. PyTorch's parts are
in `test_torch_runs.py`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from faults.training.mutants import PARTS, RULES
from faults.training.orchestrator import Violation
from faults.training.scenario import Damage, Death, Life, Scenario, Zombie, at_write
from faults.training.suite import Suite, telling

QUICK = {"plain-rng", "plain-position"}
CASES = [
    pytest.param(adapter, part, id=name, marks=() if name in QUICK else pytest.mark.slow)
    for adapter, parts in PARTS.items()
    if adapter != "torch"
    for part in parts
    if (name := f"{adapter}-{part}")
]


@pytest.mark.parametrize(("adapter", "part"), CASES)
def test_each_part_of_the_state_is_needed(adapter: str, part: str, suite: Suite) -> None:
    with pytest.raises(Violation, match="the result is another"):
        suite.run_until_violation(telling(adapter, PARTS[adapter][part][0]), mutant=part)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "flavour"),
    sorted({(adapter, which) for adapter, parts in PARTS.items() if adapter != "torch" for which, _ in parts.values()}),
)
def test_the_runs_that_show_it_pass_with_all_parts(adapter: str, flavour: int, suite: Suite) -> None:
    for scenario in telling(adapter, flavour):
        suite.run(scenario)


def _scenario(*lives: Life) -> Scenario:
    return Scenario(0, "plain", 0, "copy", 2, "replicated", "folders", told=True, lives=(*lives, Life()))


DIES, DIES_AGAIN = Death("step", step=7, after=True), Death("step", step=5, after=True)
HAUNTED = _scenario(
    Life(death=DIES),
    Life(zombie=Zombie(step=3, nth=1, wakes="after the fork", stale=True), failover=True),
    Life(death=DIES_AGAIN),
)
DAMAGED = _scenario(Life(death=DIES, damage=Damage("flip", "blob", both=True)), Life(death=DIES_AGAIN))
#: Rule → runs of which one shows that it is broken, and what it shows.
SHOWN: dict[str, tuple[list[Scenario], str]] = {
    "the manifest is written last": (
        [at_write("plain", nth) for nth in range(3, 9)],
        "a checkpoint was committed without its blobs",
    ),
    "only the lineage of the epoch counts": (
        [HAUNTED, replace(HAUNTED, seed=1)],
        "another checkpoint was elected|a stale write was|the result is another",
    ),
    "what is loaded was read and hashed": ([DAMAGED], "another checkpoint was elected|did not end as it should"),
    "damage leads to an older checkpoint": ([DAMAGED], "a start from zero while a verified checkpoint exists"),
    "a replica has its blobs before its manifest": ([HAUNTED], "a checkpoint was committed without its blobs"),
}


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_each_rule_of_the_protocol_is_needed(rule: str, suite: Suite) -> None:
    scenarios, shows = SHOWN[rule]
    with pytest.raises(Violation, match=shows):
        suite.run_until_violation(scenarios, protocol=rule)


@pytest.mark.slow
def test_the_runs_that_show_a_broken_rule_pass_when_all_are_kept(suite: Suite) -> None:
    for scenario in {scenario for scenarios, _ in SHOWN.values() for scenario in scenarios}:
        suite.run(scenario)
