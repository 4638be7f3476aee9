"""Snapshots of datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from holdfast.operators.base import HoldfastOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from holdfast.engine.runtime import Runtime


class PublishDatasetOperator(HoldfastOperator):
    """Takes a snapshot of a dataset at its group's active site and publishes it there; none when nothing changed.

    Of a dataset with a Great Expectations suite a version that has no result of it yet is checked, which takes seconds;
    the result is kept, met or not. `ValidateDatasetOperator` is what refuses one that is not met.

    :param group: the protection group whose active site is meant. (templated)
    :param dataset: the dataset. (templated)
    :returns: ``snapshot_id``, ``epoch``, ``site``, ``objects``, ``size_bytes``.
    """

    template_fields: Sequence[str] = ("group", "dataset")

    def __init__(self, *, group: str, dataset: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group = group
        self.dataset = dataset
        self.check_names(group=group, dataset=dataset)

    def act(self, _context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline import publish_dataset

        record = publish_dataset(runtime, self.group, self.dataset)
        return {
            "snapshot_id": record.snapshot_id,
            "epoch": record.epoch,
            "site": record.site,
            "objects": record.object_count,
            "size_bytes": record.size_bytes,
        }
