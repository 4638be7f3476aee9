"""The checkpoint interval while a run goes on: planned anew after every save, from what this run measured itself."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass
from threading import Lock
from typing import Any

from holdfast.engine.checkpoint.errors import CheckpointError
from holdfast.engine.checkpoint.interval import FailureRate, IntervalPlan, SaveCosts, plan_interval

#: Steps whose median is the step's length: long enough to pass over a slow one, short enough to follow a change.
_STEPS_REMEMBERED = 32
#: The first save is a measurement. By then an optimizer has its moments, so that the state has its full size.
_STEPS_BEFORE_THE_FIRST = 2


@dataclass(frozen=True, slots=True)
class IntervalPolicy:
    """What the interval is planned from beside the measurements; see `SaveCosts` and `FailureRate`.

    Args:
        failures: how often such a run fails: a prior, and what was observed of this run before this process.
        restart_seconds: from a failure until training goes on.
        minimum_seconds: never save more often.
        maximum_seconds: never let more than so much training go unsaved; None: as the plan says, however long.
        egress_price_per_gib: for bytes that leave the site, per standby.
        egress_budget_per_hour: in the same currency, all standbys together; None: not bounded.

    Raises:
        IntervalInputInvalid: a figure is none that can be planned with.
    """

    failures: FailureRate
    restart_seconds: float = 0.0
    minimum_seconds: float = 0.0
    maximum_seconds: float | None = None
    egress_price_per_gib: float = 0.0
    egress_budget_per_hour: float | None = None

    def __post_init__(self) -> None:
        self.costs(stall_seconds=0.0, step_seconds=1.0, changed_bytes=1)

    def costs(self, **measured: Any) -> SaveCosts:
        """These bounds with what was measured."""
        return SaveCosts(
            restart_seconds=self.restart_seconds,
            egress_price_per_gib=self.egress_price_per_gib,
            egress_budget_per_hour=self.egress_budget_per_hour,
            minimum_seconds=self.minimum_seconds,
            maximum_seconds=self.maximum_seconds,
            **measured,
        )


def check_interval(every_steps: int | None, every_seconds: float | None, interval: IntervalPolicy | None) -> None:
    """Raises CheckpointError: nothing says when to save, or one of the intervals is none."""
    if every_steps is None and every_seconds is None and interval is None:
        wrong = ("every_steps, every_seconds, interval", "one of them", "none")
    elif every_steps is not None and every_steps < 1:
        wrong = ("every_steps", "1 or more", str(every_steps))
    elif every_seconds is not None and not every_seconds > 0:
        wrong = ("every_seconds", "more than 0", str(every_seconds))
    else:
        return
    where, expected, found = wrong
    raise CheckpointError("there is no checkpoint interval", where=where, expected=expected, found=found)


class Pace:
    """Says when a save is due. Steps and saves tell it what they took, from whichever thread.

    Until a step and a save have been measured, a save is due two steps and ``minimum_seconds`` after the one before, or
    after the begin, to be measured. From then on after the planned steps or the planned time, whichever is over first:
    the plan follows what is measured at every step, and a step that suddenly takes long must not put the save off.

    Args:
        standbys: how many sites get each checkpoint.
        began: monotonic seconds.
    """

    def __init__(self, policy: IntervalPolicy, *, standbys: int, began: float) -> None:
        self._policy = policy
        self._standbys = standbys
        self._began = self._saved_at = began
        self._lock = Lock()
        self._steps: deque[float] = deque(maxlen=_STEPS_REMEMBERED)
        self._last_step_at: float | None = None
        self._first_step: int | None = None
        self._stall_seconds: float | None = None
        self._upload_seconds: float | None = None
        self._changed_bytes = 0
        self._replication_seconds: dict[str, float] = {}
        self._plan: IntervalPlan | None = None

    @property
    def plan(self) -> IntervalPlan | None:
        """The one in force; None: nothing was measured yet."""
        with self._lock:
            return self._plan

    def is_due(self, step: int, *, saved_step: int, now: float) -> bool:
        """Whether to save after this step. ``now`` is monotonic seconds."""
        with self._lock:
            since = now - self._saved_at
            if self._plan is not None:
                return step - saved_step >= self._plan.interval_steps or since >= self._plan.interval_seconds
            done = 0 if self._first_step is None else step - max(saved_step, self._first_step)
            return done >= _STEPS_BEFORE_THE_FIRST and since >= self._policy.minimum_seconds

    def stepped(self, step: int, now: float) -> None:
        """A step is done; what a save takes of the time between two is told by `resumed`."""
        with self._lock:
            if self._last_step_at is not None:
                self._steps.append(now - self._last_step_at)
            if self._first_step is None:
                self._first_step = step - 1
            self._last_step_at = now
            self._replan(now)

    def resumed(self, now: float) -> None:
        """Training goes on after a save: the next step begins now."""
        with self._lock:
            self._last_step_at = self._saved_at = now
            self._replan(now)

    def stalled(self, seconds: float) -> None:
        """Training stood still so long for a save; `resumed` follows."""
        with self._lock:
            self._stall_seconds = seconds

    def saved(self, *, upload_seconds: float, changed_bytes: int, now: float) -> None:
        """A checkpoint is durable at its own site; plan anew."""
        with self._lock:
            self._upload_seconds, self._changed_bytes = upload_seconds, changed_bytes
            self._replan(now)

    def replicated(self, site: str, seconds: float) -> None:
        """A checkpoint is at a standby; counts from the next plan on."""
        with self._lock:
            self._replication_seconds[site] = seconds

    def facts(self) -> dict[str, Any] | None:
        """The plan for the heartbeat."""
        plan = self.plan
        if plan is None:
            return None
        return {
            "steps": plan.interval_steps,
            "seconds": plan.interval_seconds,
            "bound": str(plan.bound),
            "optimum_seconds": plan.optimum_seconds,
            "mtbf_seconds": plan.mtbf_seconds,
            "expected_goodput": plan.expected_goodput,
            "expected_lost_seconds": plan.expected_lost_seconds,
            "egress_cost_per_hour": plan.egress_cost_per_hour,
        }

    def _replan(self, now: float) -> None:
        step_seconds = statistics.median(self._steps) if self._steps else 0.0
        if step_seconds <= 0 or self._stall_seconds is None or self._upload_seconds is None:
            return
        costs = self._policy.costs(
            stall_seconds=self._stall_seconds,
            step_seconds=step_seconds,
            changed_bytes=self._changed_bytes * self._standbys,
            upload_seconds=self._upload_seconds,
            replication_seconds=max(self._replication_seconds.values(), default=0.0),
        )
        failures = self._policy.failures.observe(failures=0, seconds=max(0.0, now - self._began))
        self._plan = plan_interval(costs, failures)
