"""The faults a drill can choose."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.engine.recovery.plan import Verb
from holdfast.errors import UnknownName


@dataclass(frozen=True)
class Scenario:
    """A fault of the active site and the verb that answers it."""

    name: str
    title: str
    fault_mode: str
    verb: Verb
    must_prove: tuple[str, ...]


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "site-outage",
            "The active site is cut off from the world while everything inside it goes on working",
            fault_mode="down",
            verb="failover",
            must_prove=(
                "the service answers correctly from the standby within the RTO",
                "no more than the RPO is lost",
                "nothing the cut-off site still writes is ever selected",
                "training ends with the same model as an uninterrupted run",
            ),
        ),
    )
}


def find_scenario(name: str) -> Scenario:
    """The scenario of this name. Raises UnknownName, which lists them all."""
    if name not in SCENARIOS:
        raise UnknownName(
            "unknown scenario", where="drill", expected=f"one of {', '.join(sorted(SCENARIOS))}", found=repr(name)
        )
    return SCENARIOS[name]
