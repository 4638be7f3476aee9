"""Checks of a dataset's content before anybody trains on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from holdfast.operators.base import HoldfastOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from holdfast.engine.runtime import Runtime


class ValidateDatasetOperator(HoldfastOperator):
    """Checks the newest snapshot of a dataset at the active site against its Great Expectations suite.

    What the suite said is kept beside the snapshot, met or not.

    :param group: the protection group. (templated)
    :param dataset: the dataset; one without a suite in the topology passes. (templated)
    :returns: ``snapshot_id``, ``expectations`` (how many were checked).
    """

    template_fields: Sequence[str] = ("group", "dataset")

    def __init__(self, *, group: str, dataset: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group = group
        self.dataset = dataset
        self.check_names(group=group, dataset=dataset)

    def act(self, _context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.pipeline import validate_dataset

        return validate_dataset(runtime, self.group, self.dataset)
