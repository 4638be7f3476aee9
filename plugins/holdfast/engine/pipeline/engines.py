"""What of a dataset's policy a run can do; the rest is refused before anything moves, never passed over."""

from __future__ import annotations

from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError


def require_engine(runtime: Runtime, group: str, dataset: str, source: str) -> str:
    """The dataset's engine, if a run can do what its policy asks from this source to every other site of the group.

    Raises:
        ConfigError: it cannot; nothing was moved.
    """
    policy = runtime.topology.dataset(dataset).sync
    if policy.direction == "active-active":
        raise ConfigError(
            "a dataset with writers at two sites cannot be synced by a run",
            where=f"datasets.{dataset}.sync.direction",
            expected="`one-way`",
            found=f"`{policy.direction}` in group {group}",
            fix="Let one site write; docs/reference/sync.md says where the other direction stands",
        )
    engine = policy.engine
    if engine == "own":
        return engine
    raise ConfigError(
        "this engine cannot move the dataset",
        where=f"datasets.{dataset}.sync.engine",
        expected="`own`",
        found=f"`{engine}`, from {source} in group {group}",
        fix="Use `own`; docs/reference/sync.md says where provider services stand",
    )
