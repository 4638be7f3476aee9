"""What is said of a vault that too few other clouds witness, or whose locks end too early."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.engine.config import Topology
from holdfast.engine.pipeline.vaults.advice import advice_on
from holdfast.errors import UnknownName
from world import AWS, AZURE, GCP, make_world

KEYS = {role: ["age:age1x"] for role in ("writer", "reader", "admin")}


def topology(**settings: Any) -> Topology:
    made = make_world().topology
    document = made.model_dump(mode="json")
    document["sites"]["gcp-2"] = {**document["sites"][GCP], "bucket": "another"}
    document["vaults"]["desk"] = {"site": AZURE, "keys": KEYS, **settings}
    return Topology.model_validate(document)


@pytest.mark.parametrize(
    ("witnesses", "says"),
    [
        ([], ["has no witness"]),
        ([AWS], [f"one other cloud only (aws: {AWS})"]),
        ([GCP, "gcp-2"], [f"one other cloud only (gcp: {GCP}, gcp-2)"]),
        ([AWS, GCP], []),
        ([AWS, GCP, "gcp-2"], []),
    ],
)
def test_two_other_clouds_are_wanted(witnesses: list[str], says: list[str]) -> None:
    told = advice_on(topology(witnesses=witnesses), "desk")
    assert len(told) == len(says)
    assert all(part in line for part, line in zip(says, told, strict=True)), told


def test_a_witness_in_the_vaults_own_cloud_is_told_of() -> None:
    told = advice_on(topology(site="gcp-2", witnesses=[GCP, AWS]), "desk")
    assert f"witness {GCP} of vault desk lies in the vault's own cloud (gcp)" in told[0]
    assert "one other cloud only" in told[1]
    assert len(advice_on(topology(site="gcp-2", witnesses=[GCP]), "desk")) == 1


@pytest.mark.parametrize(
    ("days", "schedule", "says"),
    [
        ({"daily": 1}, "@daily", "end after 1 days and are renewed @daily"),
        ({"daily": 30, "hourly": 7}, "@weekly", "end after 7 days and are renewed @weekly"),
        ({"daily": 30}, None, "no `verify_schedule` has them renewed"),
        ({"daily": 2}, "@daily", None),
        ({"daily": 30}, "0 3 * * 1-5", None),
        ({}, None, None),
    ],
)
def test_locks_that_end_before_they_are_renewed(days: dict[str, int], schedule: str | None, says: str | None) -> None:
    told = advice_on(topology(witnesses=[AWS, GCP], lock_days=days, verify_schedule=schedule), "desk")
    assert [says in line for line in told] == ([True] if says else [])


def test_a_vault_that_is_none() -> None:
    with pytest.raises(UnknownName):
        advice_on(topology(), "no")
