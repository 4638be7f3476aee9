"""What `holdfast check` says of a topology's residency."""

from __future__ import annotations

from holdfast.engine.config import EnvironmentConnections
from holdfast.engine.recovery.readiness import check_readiness
from holdfast.engine.runtime import Runtime
from world import AZURE, DATASET, GCP, GROUP, MODEL, make_world


def test_a_standby_that_may_not_hold_the_group_is_a_failed_finding() -> None:
    topology = make_world().topology
    topology.services.clear()  # nothing but the stores and registers, which nobody answers for here
    topology.sites[AZURE] = topology.site(AZURE).model_copy(update={"jurisdiction": "US"})
    runtime = Runtime(topology, EnvironmentConnections({}), environ={})

    def residency() -> tuple[bool | None, str]:
        (found,) = (f for f in check_readiness(runtime) if f.part == "residency")
        assert found.name == GROUP
        return found.ok, found.detail

    group = topology.group(GROUP)
    topology.groups[GROUP] = group.model_copy(update={"services": ()})
    assert residency() == (True, "everything of it may lie at every active or standby site")  # a witness holds none
    topology.sites[GCP] = topology.site(GCP).model_copy(update={"jurisdiction": "US"})
    ok, detail = residency()
    assert ok is False
    for part in (f"{DATASET} → {GCP}", f"{MODEL} → {GCP}", "expected one of EU", "found US"):
        assert part in detail
