"""Waits for a site to go down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from holdfast.operators.base import HoldfastOperator
from holdfast.triggers.health import SiteDownTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from holdfast.engine.runtime import Runtime


class SiteDownSensor(HoldfastOperator):
    """Watches a group's active site in the triggerer; succeeds when it is down by the rules of the group.

    When nothing was found within ``window_seconds`` the task is skipped, and with it what follows. A site that a plan
    or a drill is working on is not reported.

    :param group: the protection group. (templated)
    :param window_seconds: how long one run watches.
    :returns: ``group``, ``site``, ``epoch``, ``since``, ``reasons``.
    """

    template_fields: Sequence[str] = ("group",)

    def __init__(self, *, group: str, window_seconds: float = 900.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.group = group
        self.window_seconds = window_seconds
        self.check_names(group=group)
        self.check_positive(window_seconds=window_seconds)

    def act(self, _context: Context, runtime: Runtime) -> None:
        """See that the group can be watched at all, then hand over to the triggerer."""
        from holdfast.engine.pipeline import require_active

        self.log.info("Watching %s", require_active(runtime, self.group).active_site)
        self.defer(
            trigger=SiteDownTrigger(
                group=self.group, window_seconds=self.window_seconds, topology_path=self.topology_path
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, _context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Report what was found, or skip."""
        if event["found"] is None:
            raise AirflowSkipException(f"{self.group}: the active site was not down")
        found: dict[str, Any] = event["found"]
        self.log.warning("%s is down since %s: %s", found["site"], found["since"], found["reasons"])
        return found
