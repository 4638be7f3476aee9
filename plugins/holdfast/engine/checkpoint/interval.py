"""How often to save: Young's and Daly's optimum from what was measured, bounded by what a save costs elsewhere.

Saving often costs stall, saving seldom costs work redone. For failures that come at a constant rate the best interval
is known in closed form. Below some length it buys nothing: a save must be written and replicated before the next one
begins, and every one of them is egress.

Sources: J. W. Young, "A first order approximation to the optimum checkpoint interval", Comm. ACM 17(9), 1974.
J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", Future Generation Computer
Systems 22(3), 2006: equation 37 for the interval, equation 20 for the time a run takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from enum import StrEnum

from holdfast.errors import ConfigError

_GIB = 1024**3
_HOUR_SECONDS = 3600.0
#: Beyond this exponent a segment between two failures is hopeless; exp() of it would still be a float.
_HOPELESS = 700.0


class IntervalInputInvalid(ConfigError):
    """A figure that the interval policy was given cannot be one."""


class Bound(StrEnum):
    """What decided the interval."""

    YOUNG_DALY = "young-daly"
    UPLOAD = "upload"
    REPLICATION = "replication"
    EGRESS = "egress"
    MINIMUM = "minimum"
    MAXIMUM = "maximum"
    STEP = "step"


@dataclass(frozen=True, slots=True)
class FailureRate:
    """How often this run fails: a Gamma prior on the rate, updated by what was observed (conjugate to Poisson).

    Args:
        prior_mtbf_seconds: mean seconds between failures, before anything was seen.
        prior_weight_failures: how many observed failures the prior is worth.
        observed_failures: failures seen.
        observed_seconds: running time they were seen in; failure-free time counts.

    Raises:
        IntervalInputInvalid: a figure is not finite, negative, or zero where it must not be.
    """

    prior_mtbf_seconds: float
    prior_weight_failures: float = 1.0
    observed_failures: int = 0
    observed_seconds: float = 0.0

    def __post_init__(self) -> None:
        _require("prior_mtbf_seconds", self.prior_mtbf_seconds, above_zero=True)
        _require("prior_weight_failures", self.prior_weight_failures, above_zero=True)
        _require("observed_failures", self.observed_failures)
        _require("observed_seconds", self.observed_seconds)

    @property
    def per_second(self) -> float:
        """The posterior mean of the rate: (weight + failures) / (weight · prior MTBF + seconds)."""
        seconds = self.prior_weight_failures * self.prior_mtbf_seconds + self.observed_seconds
        return (self.prior_weight_failures + self.observed_failures) / seconds

    @property
    def mtbf_seconds(self) -> float:
        return 1.0 / self.per_second

    def observe(self, *, failures: int, seconds: float) -> FailureRate:
        """The same prior after so many more failures in so many more running seconds."""
        _require("failures", failures)
        _require("seconds", seconds)
        return replace(
            self,
            observed_failures=self.observed_failures + failures,
            observed_seconds=self.observed_seconds + seconds,
        )


@dataclass(frozen=True, slots=True)
class SaveCosts:
    """What one save costs, as measured.

    Args:
        stall_seconds: how long training stands still per save: the blocking part alone.
        step_seconds: one training step.
        changed_bytes: bytes of state that a save sends to the standby, after deduplication and compression.
        upload_seconds: from the end of the stall until the checkpoint is durable at its own site.
        replication_seconds: from there until its receipt and manifest are at the slowest standby.
        restart_seconds: from a failure until training goes on, the restore included.
        egress_price_per_gib: for bytes leaving the site, all standbys together, in the budget's currency.
        egress_budget_per_hour: None: not bounded.
        minimum_seconds: never save more often than this.
        maximum_seconds: nor less often, unless another bound asks for it; None: no such bound.

    Raises:
        IntervalInputInvalid: a figure is not finite or negative, or nothing may be sent although every save must be.
    """

    stall_seconds: float
    step_seconds: float
    changed_bytes: int = 0
    upload_seconds: float = 0.0
    replication_seconds: float = 0.0
    restart_seconds: float = 0.0
    egress_price_per_gib: float = 0.0
    egress_budget_per_hour: float | None = None
    minimum_seconds: float = 0.0
    maximum_seconds: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                _require(field.name, value, above_zero=field.name in ("step_seconds", "maximum_seconds"))
        if self.egress_budget_per_hour == 0 and self.egress_cost_per_save > 0:
            raise IntervalInputInvalid(
                "the egress budget allows no save at all",
                where="egress_budget_per_hour",
                expected="more than 0, or None for no bound",
                found="0",
                fix="Raise the budget, or run without standbys",
            )

    @property
    def egress_cost_per_save(self) -> float:
        return self.changed_bytes / _GIB * self.egress_price_per_gib

    @property
    def lag_seconds(self) -> float:
        """How far the standby is behind: from the state's capture until it is there."""
        return self.upload_seconds + self.replication_seconds


@dataclass(frozen=True, slots=True)
class IntervalPlan:
    """When to save, why, and what to expect of it.

    ``interval_seconds`` is training between two saves, without the stall: ``interval_steps`` whole steps.
    ``optimum_seconds`` is Daly's, before rounding and bounds. ``expected_lost_seconds`` is per failure of the site:
    half an interval and the lag. ``expected_goodput`` is the share of wall time that ends up in the result.
    """

    interval_seconds: float
    interval_steps: int
    bound: Bound
    optimum_seconds: float
    bounds_seconds: tuple[tuple[Bound, float], ...]
    mtbf_seconds: float
    lag_seconds: float
    expected_goodput: float
    expected_lost_seconds: float
    egress_cost_per_hour: float

    def explain(self) -> str:
        """The plan in a few lines, for a log or a person."""
        loss, lag = f"{self.expected_lost_seconds:.4g} s", f"{self.lag_seconds:.4g} s"
        bounds = ", ".join(f"{bound} {seconds:.3g} s" for bound, seconds in self.bounds_seconds if seconds > 0)
        return "\n".join(
            (
                f"save every {self.interval_steps} steps ({self.interval_seconds:.4g} s); decided by: {self.bound}",
                f"optimum by Young/Daly {self.optimum_seconds:.4g} s at one failure in {self.mtbf_seconds:.4g} s",
                f"lower bounds: {bounds or 'none'}",
                f"expected goodput {self.expected_goodput:.2%}",
                f"expected loss per failure {loss}, of it replication lag {lag}",
                f"egress per hour {self.egress_cost_per_hour:.4g}",
            )
        )


def plan_interval(costs: SaveCosts, failures: FailureRate) -> IntervalPlan:
    """The interval to save at, in whole steps, never under any bound.

    The egress bound and the two time bounds are kept by training time alone; the stall comes on top.
    """
    mtbf = failures.mtbf_seconds
    optimum = daly_interval(costs.stall_seconds, mtbf)
    bounds = _bounds(costs)
    bound, lowest = max(bounds, key=lambda item: item[1])
    least_steps = max(1, _whole_steps(lowest, costs.step_seconds))
    best_steps = round(optimum / costs.step_seconds)
    if best_steps >= least_steps:
        bound, steps = Bound.YOUNG_DALY, best_steps
    else:
        steps = least_steps
        bound = bound if lowest > 0 and lowest > optimum else Bound.STEP
    if costs.maximum_seconds is not None and steps * costs.step_seconds > costs.maximum_seconds:
        most_steps = max(least_steps, int(costs.maximum_seconds / costs.step_seconds))
        if most_steps < steps:
            bound, steps = Bound.MAXIMUM, most_steps
    interval = steps * costs.step_seconds
    return IntervalPlan(
        interval_seconds=interval,
        interval_steps=steps,
        bound=bound,
        optimum_seconds=optimum,
        bounds_seconds=bounds,
        mtbf_seconds=mtbf,
        lag_seconds=costs.lag_seconds,
        expected_goodput=expected_goodput(interval, costs, mtbf),
        expected_lost_seconds=interval / 2 + costs.lag_seconds,
        egress_cost_per_hour=costs.egress_cost_per_save * _HOUR_SECONDS / (interval + costs.stall_seconds),
    )


def daly_interval(stall_seconds: float, mtbf_seconds: float) -> float:
    """Daly 2006, equation 37: √(2δM)·[1 + ⅓·√(δ/2M) + ⅑·(δ/2M)] − δ, and M once δ ≥ 2M. Its first term is Young's."""
    if stall_seconds >= 2 * mtbf_seconds:
        return mtbf_seconds
    ratio = stall_seconds / (2 * mtbf_seconds)
    return math.sqrt(2 * stall_seconds * mtbf_seconds) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - stall_seconds


def expected_goodput(interval_seconds: float, costs: SaveCosts, mtbf_seconds: float) -> float:
    """The share of wall time that ends up in the result: T·e^(−(R+L)/M) / (M·(e^((T+δ)/M) − 1)).

    Daly 2006, equation 20, turned around. L is new: a failure of the site loses what was not yet at the standby, so
    between two failures the first L seconds after a save do not count, like the restart.
    """
    segment = (interval_seconds + costs.stall_seconds) / mtbf_seconds
    if segment > _HOPELESS:
        return 0.0
    surviving = math.exp(-(costs.restart_seconds + costs.lag_seconds) / mtbf_seconds)
    return interval_seconds * surviving / (mtbf_seconds * math.expm1(segment))


def _bounds(costs: SaveCosts) -> tuple[tuple[Bound, float], ...]:
    budget = costs.egress_budget_per_hour
    egress = costs.egress_cost_per_save * _HOUR_SECONDS / budget if budget else 0.0
    return (
        (Bound.UPLOAD, costs.upload_seconds),
        (Bound.REPLICATION, costs.replication_seconds),
        (Bound.EGRESS, egress),
        (Bound.MINIMUM, costs.minimum_seconds),
    )


def _whole_steps(seconds: float, step_seconds: float) -> int:
    """The fewest steps that take at least so long; the loop takes back what the division rounded down."""
    steps = math.ceil(seconds / step_seconds)
    while steps * step_seconds < seconds:
        steps += 1
    return steps


def _require(name: str, value: float, *, above_zero: bool = False) -> None:
    if math.isfinite(value) and (value > 0 if above_zero else value >= 0):
        return
    raise IntervalInputInvalid(
        "this figure cannot be used to plan the checkpoint interval",
        where=name,
        expected="a finite number above 0" if above_zero else "a finite number, 0 or more",
        found=repr(value),
        fix="Pass what was measured, in the unit of its name",
    )
