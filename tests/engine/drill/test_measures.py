"""Times, losses and verdicts: what is not known is never a pass."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from holdfast.engine.drill.journal import Verdicts
from holdfast.engine.drill.steady_state import Check, SteadyState
from holdfast.engine.drill.times import clock_source, recovery_times
from holdfast.engine.recovery.journal import StepRecord

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def record(
    step: str, ended: float, seconds: float = 1.0, *, boot: str = "a", wall: float | None = None, **evidence: object
):
    at = T0 + timedelta(seconds=ended if wall is None else wall)
    return StepRecord(
        plan_id="p",
        epoch=2,
        step=step,
        status="done",
        started_at=at - timedelta(seconds=seconds),
        ended_at=at,
        seconds=seconds,
        monotonic_end=ended,
        boot=boot,
        runner="r",
        write_id=step,
        evidence=evidence,
    )


def test_the_four_times_end_at_the_first_right_answer() -> None:
    plan = {
        r.step: r
        for r in (record("detect", 10.0), record("decide", 40.0, 1.0, automatic=False), record("verify", 45.0))
    }
    times = recovery_times(record("inject", 5.0, 1.0), plan)
    assert times == {"from_fault": 41.0, "from_detection": 35.0, "from_decision": 5.0, "without_approval": 12.0}


def test_a_wall_clock_that_jumped_does_not_count_on_one_host() -> None:
    plan = {
        "detect": record("detect", 10.0),
        "decide": record("decide", 11.0, automatic=True),
        "verify": record("verify", 14.0, wall=9000.0),
    }
    assert recovery_times(record("inject", 5.0), plan)["from_decision"] == 3.0


def test_between_hosts_only_wall_clocks_are_left_and_it_is_said() -> None:
    plan = {
        "detect": record("detect", 10.0),
        "decide": record("decide", 11.0, automatic=True),
        "verify": record("verify", 999.0, boot="b", wall=14.0),
    }
    assert recovery_times(record("inject", 5.0), plan)["from_decision"] == 3.0
    assert clock_source(list(plan.values()))["hosts"] == 2


def test_a_fault_an_earlier_attempt_may_have_injected_counts_from_then() -> None:
    plan = {"verify": record("verify", 45.0)}
    arm = record("arm", 2.0)
    assert recovery_times(record("inject", 30.0, armed_before=True), plan, arm)["from_fault"] == 43.0
    assert recovery_times(record("inject", 30.0, armed_before=False), plan, arm)["from_fault"] == 16.0


def test_without_an_answer_no_time_is_known() -> None:
    assert set(recovery_times(record("inject", 5.0), {"detect": record("detect", 10.0)}).values()) == {None}


@pytest.mark.parametrize(
    ("changed", "passed"),
    [
        ({}, True),
        ({"detected": False}, False),
        ({"rpo_met": None}, None),
        ({"rpo_met": False}, False),
        ({"rpo_met": None, "rto_met": False}, False),
    ],
)
def test_unknown_is_no_pass_and_false_beats_unknown(changed: dict[str, bool | None], passed: bool | None) -> None:
    names = (
        "detected",
        "rto_met",
        "rpo_met",
        "stale_writes_refused",
        "model_identical",
        "answers_equal",
        "steady_state_restored",
        "fault_lifted",
    )
    assert Verdicts(**{**dict.fromkeys(names, True), **changed}).passed is passed


@pytest.mark.parametrize(
    ("results", "holds"), [((True,), True), ((True, None), None), ((None, False), False), ((), None)]
)
def test_a_steady_state_holds_only_when_everything_was_seen_to(
    results: tuple[bool | None, ...], holds: bool | None
) -> None:
    state = SteadyState("site", 1, tuple(Check("x", "y", ok, "") for ok in results))
    assert state.holds is holds
