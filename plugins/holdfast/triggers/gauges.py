"""A job's heartbeat as Airflow metrics: a StatsD or OpenTelemetry backend shows the work at risk live."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Metric names. Tags: ``run``, ``site``, and for the work at risk ``standby``.
STEP = "holdfast.training.step"
AT_RISK_STEPS = "holdfast.training.work_at_risk_steps"
AT_RISK_SECONDS = "holdfast.training.work_at_risk_seconds"
SAVE_STALL = "holdfast.training.save_stall_seconds"


def tell(heartbeat: Mapping[str, Any], *, run: str, site: str) -> None:
    """Set the gauges of one job. What the heartbeat does not tell is left as it was.

    The seconds of a standby that has nothing yet are not told: they are not zero.
    """
    from airflow.sdk.observability import stats

    def gauge(name: str, value: object, **more: str) -> None:
        if isinstance(value, int | float) and not isinstance(value, bool):
            stats.gauge(name, float(value), tags={"run": run, "site": site, **more})

    gauge(STEP, heartbeat.get("step"))
    saving = heartbeat.get("saving")
    gauge(SAVE_STALL, saving.get("stall_seconds") if isinstance(saving, Mapping) else None)
    replicas = heartbeat.get("replicas")
    for standby, told in replicas.items() if isinstance(replicas, Mapping) else ():
        at_risk = told.get("work_at_risk") if isinstance(told, Mapping) else None
        if isinstance(at_risk, Mapping):
            gauge(AT_RISK_STEPS, at_risk.get("steps"), standby=standby)
            gauge(AT_RISK_SECONDS, at_risk.get("seconds"), standby=standby)
