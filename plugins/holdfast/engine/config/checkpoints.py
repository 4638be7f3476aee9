"""How often a training job saves, how it is stored, and what is kept of it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from holdfast.engine.config.base import Model


class CheckpointCompression(Model):
    """How a job's checkpoints are stored. Encoding takes a core of the job's machine while a checkpoint is written."""

    policy: Literal["none", "auto", "zstd"] = Field(
        "none",
        description="`auto`: blobs of 64 KiB or more, where it saves a tenth; `zstd`: each blob that becomes smaller.",
    )
    level: int = Field(1, ge=1, le=19, description="Zstandard's; above 1 it hardly saves more on floating point.")


class PlannedInterval(Model):
    """The interval is planned while the job runs, by Young and Daly, from what it measures; see docs/explanation."""

    mtbf_hours: float = Field(24.0, gt=0, description="Mean hours between two failures, before any was seen.")
    mtbf_weight: float = Field(1.0, gt=0, description="How many observed failures that guess is worth.")
    restart_seconds: float = Field(120.0, ge=0, description="From a failure until training goes on.")
    minimum_seconds: float = Field(10.0, ge=0, description="Never save more often.")
    maximum_seconds: float = Field(1800.0, gt=0, description="Never let more training than this go unsaved.")
    egress_budget_per_hour: float | None = Field(
        None, gt=0, description="For all standbys together, in the currency of the site's `egress_cost_per_gib`."
    )


class KeepCheckpoints(Model):
    """What stays of a run at every site. The newest verified one always stays, and what its lineage needs."""

    last: int = Field(3, ge=1, description="So many of the newest.")
    every_steps: int | None = Field(None, gt=0, description="The first at or after each multiple of so many steps.")
    best: int = Field(0, ge=0, description="So many of the best by `metric`.")
    metric: str | None = Field(
        None, description="`loss`, another figure told with a step, or a member of the checkpoint's state."
    )
    mode: Literal["min", "max"] = Field("min", description="Whether small or large is good.")
    grace_hours: float = Field(
        24.0, ge=0, description="How long the blobs of what is retired stay: longer than any restore or replication."
    )

    @model_validator(mode="after")
    def _best_by_something(self) -> Self:
        if self.best and not self.metric:
            raise ValueError("`best` needs `metric`: expected the name of a member of the state; found none")
        return self
