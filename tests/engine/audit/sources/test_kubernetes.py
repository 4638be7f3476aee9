"""Kubernetes' audit events: layouts, what a sequence of numbers proves, and how events read as OCSF."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from benchmarks.cloud_events import kubernetes
from holdfast.clock import FakeClock
from holdfast.engine.audit.interface import AuditSource, Coverage, Interval, State
from holdfast.engine.audit.ocsf.schema import as_event
from holdfast.engine.audit.sources.kubernetes import Kubernetes
from holdfast.engine.config.audit import KubernetesSource
from holdfast.engine.objectstore import memory_store
from ocsf_world import assert_valid

HOUR = Interval(datetime(2026, 11, 29, 8, tzinfo=UTC), datetime(2026, 11, 29, 9, tzinfo=UTC))


class World:
    """A bucket in memory, and a clock two days later."""

    def __init__(self, **settings: Any) -> None:
        self.store = memory_store()
        self.clock = FakeClock(HOUR.end + timedelta(days=2))
        self.settings = KubernetesSource(kind="kubernetes", site="aws", bucket="audit", cluster="prod", **settings)

    def source(self) -> Kubernetes:
        return Kubernetes("k8s", self.settings, self.store, self.clock)

    def put(self, key: str, data: bytes | None = None) -> None:
        self.store.put(key, b"\n".join(kubernetes(4)) + b"\n" if data is None else data)

    def coverage(self) -> Coverage:
        source = self.source()
        for _ in source.read(HOUR):
            pass
        return source.completeness(HOUR)


def codes(coverage: Coverage) -> set[str]:
    return {finding.code for finding in coverage.findings}


def event(**changes: Any) -> dict[str, Any]:
    """How an event, changed, reads as OCSF."""
    record = json.dumps({**json.loads(list(kubernetes(2))[1]), "annotations": {}, **changes}).encode()
    (row,) = World().source().normalise(pa.array([record], pa.large_binary())).to_pylist()
    found = as_event(row)
    assert_valid(found)
    return found


def test_without_numbers_an_hour_is_unknown_however_much_is_there() -> None:
    world = World()
    world.put("2026/11/29/08/a.json")
    coverage = world.coverage()
    assert isinstance(world.source(), AuditSource)
    assert (coverage.state, coverage.proof, coverage.records) == (State.UNKNOWN, "none", 4)
    assert codes(coverage) == {"no-proof"}


def test_the_layout_is_configured() -> None:
    world = World(layout="audit/{cluster}/dt={yyyy}-{mm}-{dd}/h{hh}-")
    world.put("audit/prod/dt=2026-11-29/h08-x.json.gz", gzip.compress(b"\n".join(kubernetes(6))))
    world.put("audit/other/dt=2026-11-29/h08-x.json")
    assert world.coverage().records == 6


def numbered(*numbers: int, hour: int = 8, stream: str = "") -> list[str]:
    return [f"2026/11/29/{hour:02}/{stream}{number}.json" for number in numbers]


def sequence(*keys: str, pattern: str = "{index}.json") -> Coverage:
    world = World(sequence=pattern)
    for key in keys:
        world.put(key)
    return world.coverage()


def test_numbers_from_the_last_before_the_hour_to_the_first_after_it_show_that_it_is_whole() -> None:
    coverage = sequence(*numbered(6, 7, hour=7), *numbered(8, 9), *numbered(10, hour=10))
    assert (coverage.state, coverage.proof) == (State.COMPLETE, "sequence")
    assert (coverage.expected, coverage.observed) == (2, 2)


def test_numbers_show_that_an_hour_was_empty() -> None:
    coverage = sequence(*numbered(6, 7, hour=7), *numbered(8, hour=10))
    assert (coverage.state, coverage.expected, coverage.observed, coverage.records) == (State.COMPLETE, 0, 0, 0)


@pytest.mark.parametrize(
    "keys",
    [
        [*numbered(7, hour=7), *numbered(8, 10), *numbered(11, hour=9)],  # in the middle
        [*numbered(7, hour=7), *numbered(9, 10), *numbered(11, hour=9)],  # its first
        [*numbered(7, hour=7), *numbered(8, 9), *numbered(11, hour=9)],  # its last
        [*numbered(7, hour=7), *numbered(9, hour=9)],  # its only one
    ],
)
def test_a_number_that_is_missing_is_a_gap(keys: list[str]) -> None:
    coverage = sequence(*keys)
    assert coverage.state is State.GAP
    assert "sequence-hole" in codes(coverage)


def test_a_tail_that_was_cut_off_is_not_complete() -> None:
    coverage = sequence(*numbered(7, hour=7), *numbered(8, 9))
    assert (coverage.state, codes(coverage) - {"duplicates"}) == (State.UNKNOWN, {"sequence-open"})


def test_an_hour_with_no_number_near_it_is_unknown() -> None:
    coverage = sequence()
    assert (coverage.state, codes(coverage)) == (State.UNKNOWN, {"hour-empty"})


def test_each_stream_numbers_for_itself() -> None:
    a, b = (
        [*numbered(first, hour=7, stream=s), *numbered(first + 1, stream=s), *numbered(first + 2, hour=9, stream=s)]
        for s, first in (("cp1-", 4), ("cp2-", 90))
    )
    pattern = "{stream}-{index}.json"
    assert sequence(*a, *b, pattern=pattern).state is State.COMPLETE
    assert sequence(*a, b[0], b[2], pattern=pattern).state is State.GAP


@pytest.mark.parametrize(
    "settings",
    [{"layout": "{yyyy}/{mm}/{dd}/"}, {"sequence": "x.gz"}, {"sequence": "{index}-{index}"}],
)
def test_a_layout_that_cannot_work_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected"):
        World(**settings)


def test_names_in_a_layout_are_filled_in_and_nothing_else_is() -> None:
    world = World(layout="{cluster.__class__}/{yyyy}{mm}{dd}{hh}-(+)-", sequence="[{index}].json")
    world.put("{cluster.__class__}/2026112908-(+)-[7].json")
    assert world.coverage().records == 4


def test_a_stage_that_is_delivered_twice_is_counted_and_two_stages_are_not() -> None:
    world = World()
    world.put("2026/11/29/08/a.json", b"\n".join(kubernetes(6)))
    assert "duplicates" not in codes(world.coverage())
    world.put("2026/11/29/08/b.json", b"\n".join(list(kubernetes(6))[:2]))
    (finding,) = (f for f in world.coverage().findings if f.code == "duplicates")
    assert finding.detail.startswith("2 records")


def test_every_kind_of_event_is_valid_ocsf() -> None:
    table = World().source().normalise(pa.array(kubernetes(120), pa.large_binary()))
    events = [as_event(row) for row in table.to_pylist()]
    for found in events:
        assert_valid(found)
    assert {found["class_uid"] for found in events} == {3004, 6003}


@pytest.mark.parametrize(
    ("verb", "group", "resource", "found_class", "activity"),
    [
        ("get", "", "pods", 6003, 2),
        ("watch", "", "pods", 6003, 2),
        ("create", "batch", "jobs", 6003, 1),
        ("patch", "apps", "deployments", 6003, 3),
        ("deletecollection", "", "secrets", 6003, 4),
        ("impersonate", "", "users", 6003, 99),
        ("create", "rbac.authorization.k8s.io", "clusterrolebindings", 3004, 1),
        ("get", "rbac.authorization.k8s.io", "roles", 6003, 2),
        ("delete", "", "serviceaccounts", 3004, 4),
    ],
)
def test_a_verb_says_what_it_does(verb: str, group: str, resource: str, found_class: int, activity: int) -> None:
    found = event(verb=verb, objectRef={"resource": resource, "apiGroup": group, "name": "x", "apiVersion": "v1"})
    assert (found["class_uid"], found["activity_id"]) == (found_class, activity)


def test_a_request_that_is_forbidden_is_a_failure_and_one_without_an_answer_is_neither() -> None:
    assert event(responseStatus={"code": 403, "reason": "Forbidden"})["status_id"] == 2
    assert event(responseStatus={"code": 200})["status_id"] == 1
    assert event(stage="RequestReceived", responseStatus=None)["status_id"] == 0


def test_a_request_for_no_resource_is_valid_too() -> None:
    found = event(objectRef=None, requestURI="/healthz?verbose", sourceIPs=[])
    assert found["http_request"]["url"]["path"] == "/healthz"
    assert found["src_endpoint"] == {"svc_name": "Unknown"}


@pytest.mark.parametrize(
    "more",
    [{}, {"objectRef": {}}, {"objectRef": {"apiGroup": "rbac.authorization.k8s.io"}}, {"user": {"username": ""}}],
)
def test_the_least_that_an_event_may_hold_is_valid(more: dict[str, Any]) -> None:
    least = {"apiVersion": "audit.k8s.io/v1", "verb": "create", "stageTimestamp": "2026-11-29T08:00:00Z"}
    (row,) = (
        World().source().normalise(pa.array([json.dumps({**least, **more}).encode()], pa.large_binary())).to_pylist()
    )
    assert_valid(as_event(row))


def test_an_event_list_or_another_version_is_a_base_event() -> None:
    assert event(apiVersion="v1")["class_uid"] == 0
