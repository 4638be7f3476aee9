"""Work at risk: the steps a loss would cost at each standby, those since the last checkpoint included."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from engine.checkpoint.worlds import MOMENT, OrderedFaults, write
from holdfast.engine.checkpoint import CheckpointManifest, CheckpointUnreadable, replicate_checkpoint, work_at_risk
from holdfast.engine.checkpoint.replicate import receipt_key
from holdfast.engine.checkpoint.risk import TrainedTo, run_at_risk, trained_to
from holdfast.engine.objectstore import ObjectStore, memory_store
from holdfast.engine.snapshot.errors import EpochUnknownHere


def trained(store: ObjectStore, *steps: int) -> list[CheckpointManifest]:
    """Checkpoints one second of training per step apart."""
    found: list[CheckpointManifest] = []
    for step in steps:
        parent = found[-1] if found else None
        found.append(write(store, step, parent=parent, saved_at=MOMENT + timedelta(seconds=step)))
    return found


def at(step: int) -> TrainedTo:
    return TrainedTo(step, MOMENT + timedelta(seconds=step))


def test_what_was_trained_since_the_last_checkpoint_is_at_risk_too() -> None:
    source, near, far = memory_store("a"), memory_store("b"), memory_store("c")
    first, _, third = trained(source, 10, 20, 30)
    replicate_checkpoint(source, near, "run", third, site="near")
    replicate_checkpoint(source, far, "run", first, site="far")
    risks = run_at_risk(source, {"near": near, "far": far}, "run", epoch=1, trained=at(37))
    assert [(one.standby, one.steps, one.seconds) for one in risks] == [("near", 7, 7.0), ("far", 27, 27.0)]
    assert [(one.unsaved_steps, one.unreplicated_steps) for one in risks] == [(7, 0), (7, 20)]


def test_an_unread_copy_at_a_standby_does_not_count() -> None:
    source, target = memory_store("a"), memory_store("b")
    first, second = trained(source, 10, 20)
    for manifest in (first, second):
        replicate_checkpoint(source, target, "run", manifest, site="b")
    target.delete(receipt_key("run", second.digest, "b"))
    (risk,) = run_at_risk(source, {"b": target}, "run", epoch=1, trained=None)
    assert (risk.steps, risk.standby_step, risk.seconds) == (10, 10, 10.0)
    assert work_at_risk(source, target, "run", 1, target_site="b").steps == 10
    assert work_at_risk(source, target, "run", 1).steps == 0


def test_a_standby_with_nothing_puts_the_whole_run_at_risk_and_says_why() -> None:
    source, down = memory_store("a"), OrderedFaults(memory_store("c"))
    trained(source, 10)
    down.down = True
    risks = run_at_risk(source, {"empty": memory_store("b"), "down": down}, "run", epoch=1, trained=at(12))
    assert [(one.steps, one.seconds) for one in risks] == [(12, None), (12, None)]
    assert "no checkpoint there" in risks[0].detail
    assert "did not answer" in risks[1].detail


def test_what_residency_forbids_at_a_standby_does_not_count() -> None:
    source, target = memory_store("a"), memory_store("b")
    (first,) = trained(source, 10)
    replicate_checkpoint(source, target, "run", first, site="b")
    (risk,) = run_at_risk(source, {"b": target}, "run", epoch=1, trained=None, allowed={"b": lambda _: "not here"})
    assert (risk.steps, risk.seconds) == (10, None)


def test_an_old_heartbeat_takes_nothing_back() -> None:
    source, target = memory_store("a"), memory_store("b")
    (first,) = trained(source, 10)
    replicate_checkpoint(source, target, "run", first, site="b")
    (risk,) = run_at_risk(source, {"b": target}, "run", epoch=1, trained=at(4))
    assert (risk.steps, risk.seconds, risk.trained_step) == (0, 0.0, 10)


def test_a_standby_ahead_of_a_source_that_lost_its_newest_is_not_behind() -> None:
    source, target = memory_store("a"), memory_store("b")
    _, second = trained(source, 10, 20)
    replicate_checkpoint(source, target, "run", second, site="b")
    source.delete(second.key)
    (risk,) = run_at_risk(source, {"b": target}, "run", epoch=1, trained=at(23))
    assert (risk.steps, risk.unsaved_steps, risk.unreplicated_steps, risk.seconds) == (3, 3, 0, 3.0)


def test_a_run_that_has_done_nothing_has_nothing_at_risk() -> None:
    (risk,) = run_at_risk(memory_store("a"), {"b": memory_store("b")}, "run", epoch=1, trained=None)
    assert (risk.steps, risk.seconds, risk.detail) == (0, 0.0, "")


def test_a_source_that_does_not_know_the_epoch_gives_no_figure() -> None:
    with pytest.raises(EpochUnknownHere):
        run_at_risk(memory_store("a"), {}, "run", epoch=2, trained=None)


def test_a_heartbeat_tells_the_last_step() -> None:
    facts = {"step": 7, "step_at": "2026-01-02T03:04:05.678901Z"}
    assert trained_to(facts) == TrainedTo(7, MOMENT)
    assert trained_to({"state": "starting"}) is None


@pytest.mark.parametrize(
    "facts",
    [
        {"step": "7", "step_at": "2026-01-02T03:04:05Z"},
        {"step": 7, "step_at": "2026-01-02T03:04:05"},
        {"step": -1, "step_at": "2026-01-02T03:04:05Z"},
        {"step": 7, "step_at": 12},
    ],
)
def test_a_heartbeat_that_cannot_be_is_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(CheckpointUnreadable):
        trained_to(facts)
