"""The way back to a site that was lost: what only it had stands in nobody's way."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.engine.health.interface import Verdict
from holdfast.engine.objectstore.interface import OVERWRITE
from holdfast.engine.recovery import new_plan, protect_group, run_plan
from holdfast.engine.recovery.subjects import current_run, runs_of
from world import AWS, GCP, GROUP, JOB, RUN, World, make_world

LATER = f"{RUN}.29990101T000000000000"


def leave(world: World, what: str) -> None:
    """A later run of which the lost site alone has something."""
    if what == "checkpoint":
        bare: Any = world.bare(AWS)
        manifest = world.checkpoint(AWS, 50, 1)
        key = manifest.key.replace(f"/{RUN}/", f"/{LATER}/")
        bare.put(key, bare.get(manifest.key), mode=OVERWRITE)
        bare.delete(manifest.key)
    else:
        world.bare(AWS).put(f"runs/{LATER}/{what}/000001.000001.json", b"{}", mode=OVERWRITE)


@pytest.mark.parametrize("what", ["attempts", "heartbeats", "jobs", "checkpoint"])
def test_a_run_that_only_the_lost_site_had_does_not_block_the_way_back(world: World, what: str) -> None:
    leave(world, what)
    world.board.cut.add(AWS)
    assert run_plan(world, new_plan(world, GROUP, reason="test"), senses=world.senses).complete
    world.board.cut.clear()
    world.senses.verdicts = Verdict.HEALTHY
    state = world.epochs.read(GROUP)
    assert state is not None
    assert all(one.ok for one in protect_group(world, GROUP, state))
    back = new_plan(world, GROUP, verb="switchover", target=AWS, reason="back")
    done = run_plan(world, back, approved_by="ada", senses=world.senses)
    promote = done.record("promote")
    assert promote is not None
    assert [one["run"] for one in promote.evidence["runs"]] == [RUN]


def test_a_bucket_that_knows_no_run_of_the_epoch_shows_its_newest(world: World) -> None:
    assert current_run(world.bare(GCP), GROUP, JOB, epoch=7) == RUN


def test_a_run_that_was_only_asked_for_hides_no_other(world: World) -> None:
    leave(world, "attempts")
    assert runs_of(world.bare(AWS), GROUP, JOB) == (RUN,)
    assert current_run(world.bare(AWS), GROUP, JOB, epoch=1) == RUN


@pytest.fixture
def world() -> World:
    return make_world()
