"""A line is whose its tag says, else a rule, else its bucket's; nothing is divided, and nothing is guessed."""

from __future__ import annotations

from typing import Any

from cost_world import CostWorld, bucket_of, line
from holdfast.engine.config import Topology
from holdfast.engine.cost.focus import read_focus
from holdfast.engine.cost.mapping import BY, GROUP, ROLE, SITE, TIER, map_lines
from world import AWS, AZURE, GCP
from world import GROUP as DESK


def mapped(world: CostWorld, *lines: dict[str, Any], export: str = "gcp-bill") -> tuple[list[tuple[Any, ...]], Any]:
    from cost_world import as_csv

    table = read_focus(as_csv(lines), name="f", export=export)
    found = map_lines(table, world.topology, world.cost)
    rows = found.lines.select([GROUP, SITE, ROLE, TIER, BY]).to_pylist()
    return [tuple(row.values()) for row in rows], found.notes


def test_a_tag_comes_before_a_rule_and_a_rule_before_a_bucket():
    rules = [
        {"sub_account": "dr", "service": "Cloud Storage", "group": DESK, "role": "witness"},
        {"sub_account": "dr", "group": DESK, "role": "standby", "site": AZURE},
    ]
    world = CostWorld(rules=rules)
    bucket = {**bucket_of("holdfast-europe-west1"), "RegionId": "europe-west1"}
    rows, notes = mapped(
        world,
        line("1", SubAccountId="dr", tags={"holdfast-group": DESK, "holdfast-role": "ACTIVE"}, **bucket),
        line("1", SubAccountId="dr", ServiceName="Cloud Storage", **bucket),
        line("1", SubAccountId="dr", **bucket),
        line("1", SubAccountId="other", **bucket),
        line("1", SubAccountId="other", ResourceId="my-holdfast-europe-west1", RegionId="europe-west1"),
        line("1", SubAccountId="other", RegionId="us-east1"),
    )
    assert rows == [
        (DESK, AZURE, "active", "1", "tag"),  # the tags say nothing of a site, so the rule does
        (DESK, GCP, "witness", "1", "rule"),
        (DESK, AZURE, "standby", "1", "rule"),
        (DESK, GCP, "standby", "1", "bucket"),
        (None, GCP, None, None, None),
        (None, None, None, None, None),
    ]
    assert notes == ()


def test_a_bucket_of_another_cloud_with_the_same_name_is_not_ours():
    rows, _ = mapped(CostWorld(rules=[]), line("1", **bucket_of("holdfast-eu-west-1")), export="gcp-bill")
    assert rows == [(None, None, None, None, None)]
    rows, _ = mapped(CostWorld(rules=[]), line("1", **bucket_of("arn:aws:s3:::holdfast-eu-west-1")), export="aws-bill")
    assert rows == [(DESK, AWS, "active", "1", "bucket")]


def test_a_tag_that_names_nothing_is_told_and_maps_nothing():
    rows, notes = mapped(
        CostWorld(rules=[]), line("1", RegionId=None, tags={"holdfast:group": "other", "holdfast:role": "spare"})
    )
    assert rows == [(None, None, None, None, None)]
    assert len(notes) == 2
    assert "'other'" in notes[0]


def test_the_bucket_of_two_groups_is_shared_and_never_divided():
    world = CostWorld(rules=[])
    document = world.topology.model_dump(mode="json", exclude_unset=True)
    second = {**document["groups"][DESK], "training": [], "tier": 3}
    document["groups"]["second"] = second
    world.topology = Topology.model_validate(document)
    rows, _ = mapped(world, line("1", **bucket_of("holdfast-europe-west1"), RegionId="europe-west1"))
    assert rows == [("shared", GCP, "standby", None, "bucket")]
    second["sites"] = {"active": GCP, "standby": [AWS], "witness": [AZURE]}
    world.topology = Topology.model_validate(document)
    rows, _ = mapped(world, line("1", **bucket_of("holdfast-europe-west1"), RegionId="europe-west1"))
    assert rows == [("shared", GCP, None, None, "bucket")]  # active of one, standby of the other: unmapped
