"""What is replicated where: residency before any byte, and how far behind a silent source leaves the target."""

from __future__ import annotations

from datetime import timedelta

import pytest

from holdfast.engine.authority import EpochState
from holdfast.engine.config import Residency, Topology
from holdfast.engine.recovery import known_lag, new_plan, protect_group
from holdfast.engine.recovery.protection import read_note
from holdfast.engine.recovery.residency import refusals
from holdfast.engine.recovery.start_training import start_run
from holdfast.engine.replication import ResidencyRefused
from world import AWS, AZURE, DATASET, GCP, GROUP, JOB, MODEL, RUN, World, make_world


def committed(world: World) -> EpochState:
    state = world.epochs.read(GROUP)
    assert state is not None
    return state


def forbid(world: World, *sites: str) -> None:
    """From now on these sites lie in a jurisdiction that the market data may not leave for."""
    topology: Topology = world.topology
    for site in sites:
        topology.sites[site] = topology.site(site).model_copy(update={"jurisdiction": "US"})


def keys(world: World, site: str) -> set[str]:
    return {info.key for info in world.bare(site).list()}


def test_checkpoints_do_not_go_where_the_data_may_not_lie() -> None:
    world = make_world()
    forbid(world, GCP)
    world.checkpoint(AWS, 110, 1)
    before = keys(world, GCP)
    done = {(p.subject, p.target): p for p in protect_group(world, GROUP, committed(world))}
    at_gcp = [p for (_, target), p in done.items() if target == GCP]
    assert len(at_gcp) == 3
    assert all(p.refused and not p.ok and "jurisdiction" in p.detail for p in at_gcp)
    assert keys(world, GCP) == before
    assert all(p.ok and not p.refused for (_, target), p in done.items() if target == AZURE)


def test_a_witness_the_residency_forbids_is_refused_without_failing_the_group() -> None:
    world = make_world()
    forbid(world, AZURE)
    done = protect_group(world, GROUP, committed(world))
    assert all(p.ok for p in done)
    assert {p.subject for p in done if p.refused} == {DATASET, MODEL}


def test_a_model_is_bound_by_the_data_of_every_job_that_publishes_it() -> None:
    world = make_world()
    topology = world.topology
    topology.residency["us-only"] = Residency(jurisdictions=("US",))
    topology.datasets["other"] = topology.dataset(DATASET).model_copy(update={"residency": "us-only"})
    topology.training["second"] = topology.job(JOB).model_copy(update={"dataset": "other"})
    done = {p.subject: p for p in protect_group(world, GROUP, committed(world)) if p.target == GCP}
    assert done[MODEL].refused
    assert not done[DATASET].refused


def test_a_site_that_may_not_hold_the_group_is_no_target_and_starts_no_run() -> None:
    world = make_world()
    assert refusals(world.topology, GROUP, GCP) == ()
    forbid(world, GCP)
    assert [error.where for error in refusals(world.topology, GROUP, GCP)] == [f"{DATASET} → {GCP}", f"{MODEL} → {GCP}"]
    with pytest.raises(ResidencyRefused, match="cannot become active"):
        new_plan(world, GROUP, reason="test", target=GCP)
    forbid(world, AWS)
    submitted = world.backends[AWS].submitted
    with pytest.raises(ResidencyRefused):
        start_run(world, GROUP, JOB, run="new", state=committed(world))
    assert world.backends[AWS].submitted == submitted


@pytest.mark.parametrize("subject", [DATASET, MODEL, RUN])
def test_the_worst_of_datasets_models_and_runs_is_the_lag(subject: str) -> None:
    world = make_world()
    world.clock.advance(60)
    assert all(p.ok for p in protect_group(world, GROUP, committed(world)))
    key = f"health/replicas/{GROUP}/{subject}.{GCP}.json"
    fresh = read_note(world.bare(GCP), GROUP, subject, GCP)
    assert fresh is not None
    older = fresh.model_copy(update={"as_of": fresh.as_of - timedelta(seconds=40)})
    world.bare(GCP).put(key, older.model_dump_json().encode())
    lag = known_lag(world, GROUP, target=GCP, epoch=1, since=fresh.as_of)
    assert lag.seconds == pytest.approx(40)
    assert set(lag.by_subject) == {DATASET, MODEL, RUN}


@pytest.mark.parametrize("subject", [DATASET, MODEL, RUN])
def test_one_unknown_makes_the_lag_unknown(subject: str) -> None:
    world = make_world()
    since = world.clock.now()
    assert known_lag(world, GROUP, target=GCP, epoch=1, since=since).seconds is not None
    world.bare(GCP).put(f"health/replicas/{GROUP}/{subject}.{GCP}.json", b"{}")
    lag = known_lag(world, GROUP, target=GCP, epoch=1, since=since)
    assert lag.seconds is None
    assert lag.by_subject[subject] is None


def test_the_lag_of_what_the_source_has_nothing_of_is_known() -> None:
    world = make_world()
    world.topology.training["second"] = world.topology.job(JOB).model_copy(update={"model": "second-model"})
    group = world.topology.group(GROUP)
    world.topology.groups[GROUP] = group.model_copy(update={"training": (JOB, "second")})
    assert all(p.ok for p in protect_group(world, GROUP, committed(world)))
    lag = known_lag(world, GROUP, target=GCP, epoch=1, since=world.clock.now())
    assert lag.seconds == pytest.approx(0)
    assert lag.by_subject[f"{GROUP}-second"] == pytest.approx(0)
