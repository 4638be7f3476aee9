"""Replication of everything a group needs to be promoted elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from holdfast.operators.assets import TRAINED_MODEL, model_asset
from holdfast.operators.base import HoldfastOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from holdfast.engine.runtime import Runtime


class ProtectGroupOperator(HoldfastOperator):
    """Brings datasets, models and checkpoints of a group from its active site to the others, verified there.

    A site that does not answer fails the task after the others are served, so a retry only has what is missing to do.

    :param group: the protection group. (templated)
    :param model: the model whose asset is updated when it is done, if `TRAINED_MODEL` is an outlet. (templated)
    :returns: per subject and site what was copied.
    """

    template_fields: Sequence[str] = ("group", "model")

    def __init__(self, *, group: str, model: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group = group
        self.model = model
        self.check_names(group=group)

    def act(self, context: Context, runtime: Runtime) -> list[dict[str, Any]]:
        from holdfast.engine.pipeline import protect_everything

        done = protect_everything(runtime, self.group)
        if self.model and TRAINED_MODEL in self.outlets:
            context["outlet_events"][TRAINED_MODEL].add(model_asset(self.model))
        return done
