"""A plan is fixed before it is begun, named by its hash, and found again from any site that answers."""

from __future__ import annotations

import pytest

from holdfast.engine.recovery import PlanAltered, PlanNotFound, RecordsUnavailable, load_plan, new_plan, save_plan
from world import AWS, AZURE, GCP, GROUP, make_world


def test_the_hash_changes_with_any_field_and_survives_a_round_trip() -> None:
    world = make_world()
    plan = new_plan(world, GROUP, reason="a", plan_id="p")
    save_plan(world, plan)
    assert load_plan(world, GROUP, "p").hash == plan.hash
    assert plan.model_copy(update={"reason": "b"}).hash != plan.hash
    assert plan.hash.startswith("sha256:")


def test_another_plan_of_the_same_id_is_refused() -> None:
    world = make_world()
    save_plan(world, new_plan(world, GROUP, reason="a", plan_id="p"))
    with pytest.raises(PlanAltered):
        save_plan(world, new_plan(world, GROUP, reason="b", plan_id="p"))


def test_a_plan_is_found_while_source_and_witness_are_gone() -> None:
    world = make_world()
    save_plan(world, new_plan(world, GROUP, reason="a", plan_id="p"))
    world.board.cut |= {AWS, AZURE}
    assert load_plan(world, GROUP, "p").target == GCP


def test_a_plan_that_no_bucket_takes_is_not_begun() -> None:
    world = make_world()
    plan = new_plan(world, GROUP, reason="a", plan_id="p")
    world.board.cut |= {GCP, AZURE}
    with pytest.raises(RecordsUnavailable):
        save_plan(world, plan)


def test_an_unknown_plan_tells_who_could_not_be_asked() -> None:
    world = make_world()
    world.board.cut.add(AZURE)
    with pytest.raises(PlanNotFound, match="azure-westeurope"):
        load_plan(world, GROUP, "nope")
