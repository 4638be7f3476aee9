"""Waits for a replica to catch up, or for one that falls behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from holdfast.errors import ConfigError
from holdfast.operators.base import HoldfastOperator
from holdfast.triggers.lag import WHEN, ReplicationLagTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from holdfast.engine.runtime import Runtime


class ReplicationLagSensor(HoldfastOperator):
    """Watches in the triggerer how long ago a site was last complete with a dataset.

    With ``when="under"`` it succeeds once the lag is at most ``seconds``, and fails when that did not happen within
    ``window_seconds``: put it before what needs fresh replicas. With ``when="over"`` it succeeds once the lag is above
    ``seconds`` or unknown, and is skipped when that did not happen: put an alert behind it.

    :param group: the protection group. (templated)
    :param dataset: the dataset. (templated)
    :param site: the site that may lie behind. (templated)
    :param seconds: the bound.
    :param when: ``under`` or ``over``.
    :param window_seconds: how long one run watches.
    :param poll_seconds: between two looks; each costs the register's reads and one of the site's store.
    :returns: ``group``, ``dataset``, ``site``, ``lag_seconds`` (``None``: unknown).
    """

    template_fields: Sequence[str] = ("group", "dataset", "site")

    def __init__(
        self,
        *,
        group: str,
        dataset: str,
        site: str,
        seconds: float,
        when: str = "under",
        window_seconds: float = 900.0,
        poll_seconds: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.group = group
        self.dataset = dataset
        self.site = site
        self.seconds = seconds
        self.when = when
        self.window_seconds = window_seconds
        self.poll_seconds = poll_seconds
        self.check_names(group=group, dataset=dataset, site=site)
        self.check_positive(seconds=seconds, window_seconds=window_seconds, poll_seconds=poll_seconds)
        if when not in WHEN:
            raise ConfigError(
                "this is nothing to wait for",
                where=f"task {self.task_id}: when",
                expected=" or ".join(WHEN),
                found=repr(when),
            )

    def act(self, _context: Context, runtime: Runtime) -> None:
        """See that the names fit together, then hand over to the triggerer."""
        from holdfast.engine.pipeline.replicas import datasets_of, require_site

        datasets_of(runtime, self.group, self.dataset)
        require_site(runtime, self.group, self.site)
        self.defer(
            trigger=ReplicationLagTrigger(
                group=self.group,
                dataset=self.dataset,
                site=self.site,
                seconds=self.seconds,
                when=self.when,
                window_seconds=self.window_seconds,
                poll_seconds=self.poll_seconds,
                topology_path=self.topology_path,
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, _context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Report what was found; without a finding fail (``under``) or skip (``over``)."""
        lag = event["lag_seconds"]
        known = "unknown" if lag is None else f"{lag:.1f} s"
        said = f"{self.dataset} at {self.site} lies behind by {known} (bound {self.seconds:g} s)"
        if not event["found"]:
            if self.when == "over":
                raise AirflowSkipException(said)
            raise AirflowFailException(said)
        self.log.log(30 if self.when == "over" else 20, "%s", said)
        return {"group": self.group, "dataset": self.dataset, "site": self.site, "lag_seconds": lag}
