"""What moves a dataset's bytes: Holdfast's own copy, or nothing at all where the topology names what is not there."""

from __future__ import annotations

from holdfast.engine.runtime import Runtime
from holdfast.errors import ConfigError


def require_engine(runtime: Runtime, group: str, dataset: str, source: str) -> str:
    """The dataset's engine, if it can be used from this source to every other site of the group.

    Raises:
        ConfigError: it cannot; nothing was moved.
    """
    engine = runtime.topology.dataset(dataset).sync.engine
    if engine == "own":
        return engine
    raise ConfigError(
        "this engine cannot move the dataset",
        where=f"datasets.{dataset}.sync.engine",
        expected="`own`",
        found=f"`{engine}`, from {source} in group {group}",
        fix="Use `own`; docs/reference/sync.md says where provider services stand",
    )
