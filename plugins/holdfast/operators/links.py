"""Buttons of a training task: where its job shows its output, and its page at the service that runs it.

A worker learns the addresses from the job's backend and keeps them as an XCom; Airflow 3 reads a link's value from an
XCom of its own, which the worker writes from `get_link` when the task ends or defers. So nothing of a cloud is asked
from the API server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink

from holdfast.errors import HoldfastError

if TYPE_CHECKING:
    import logging

    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.types import TaskInstanceKey

    from holdfast.engine.compute import JobHandle, TrainingBackend

LINKS_KEY = "holdfast_job_links"


class _JobLink(BaseOperatorLink):
    """One of the addresses of `TrainingBackend.links`; no address, no button."""

    key = ""

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """The address, or nothing where the job's service has none."""
        from airflow.sdk.execution_time.xcom import XCom

        found: Any = XCom.get_value(ti_key=ti_key, key=LINKS_KEY)
        return str(found.get(self.key) or "") if isinstance(found, dict) else ""


class JobLogsLink(_JobLink):
    """The job's output."""

    name = "Logs of the job"
    key = "logs"


class JobConsoleLink(_JobLink):
    """The job's page at its service, with its metrics where the service has them."""

    name = "Job and metrics"
    key = "console"


JOB_LINKS = (JobLogsLink(), JobConsoleLink())


def keep_links(context: Context, backend: TrainingBackend, handle: JobHandle, log: logging.Logger | Any) -> None:
    """Keep the addresses of a job for the links; not knowing them is no reason to fail."""
    try:
        links = dict(backend.links(handle))
    except HoldfastError as error:
        log.warning("The job's pages are not known: %s", error)
        return
    context["ti"].xcom_push(key=LINKS_KEY, value=links)
