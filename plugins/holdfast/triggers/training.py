"""Waits for a training job outside the worker: the triggerer asks its backend, without blocking the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from holdfast.errors import ConfigError, HoldfastError

if TYPE_CHECKING:
    from holdfast.engine.compute import JobHandle, TrainingBackend


class TrainingJobTrigger(BaseTrigger):
    """Fires once, when the job has ended.

    A backend that cannot be asked is asked again: "cannot reach" is not "ended". A restart of the triggerer resumes
    from the arguments; the job does not notice.

    :param site: the site whose backend has the job.
    :param handle: the `JobHandle` as a mapping.
    :param poll_seconds: how often the backend is asked.
    :param grace_seconds: how long a killed job may take to write a last checkpoint.
    :param topology_path: the topology file; by default the one the configuration names.
    """

    def __init__(
        self,
        *,
        site: str,
        handle: Mapping[str, Any],
        poll_seconds: float = 2.0,
        grace_seconds: float = 10.0,
        topology_path: str | None = None,
    ) -> None:
        super().__init__()
        missing = {"backend", "site", "name", "reference"} - set(handle)
        if missing:
            raise ConfigError(
                "this is no job handle",
                where="TrainingJobTrigger",
                expected="the fields of a JobHandle",
                found=f"no {', '.join(sorted(missing))}",
            )
        self.site = site
        self.handle = dict(handle)
        self.poll_seconds = poll_seconds
        self.grace_seconds = grace_seconds
        self.topology_path = topology_path

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path and the arguments that make this trigger again."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "site": self.site,
            "handle": self.handle,
            "poll_seconds": self.poll_seconds,
            "grace_seconds": self.grace_seconds,
            "topology_path": self.topology_path,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event with the fields of the job's last status."""
        from holdfast.engine.compute import ENDED

        backend = await asyncio.to_thread(self._backend)
        handle = self._handle()
        while True:
            try:
                status = await asyncio.to_thread(backend.status, handle)
            except HoldfastError as error:
                if not error.transient:
                    raise
                self.log.warning("The backend of %s cannot be asked, asking again: %s", self.site, error)
            else:
                if status.state in ENDED:
                    yield TriggerEvent(
                        {
                            "state": str(status.state),
                            "step": status.step,
                            "total_steps": status.total_steps,
                            "detail": status.detail,
                        }
                    )
                    return
                self.log.info(
                    "%s at %s: %s, step %s of %s", handle.name, self.site, status.state, status.step, status.total_steps
                )
            await asyncio.sleep(self.poll_seconds)

    async def on_kill(self) -> None:
        """A user failed, cleared or ended the task: let the job write a checkpoint and leave.

        Airflow calls this for a user's action only, never for a restart or a timeout, so a lost worker or triggerer
        does not take the training with it.
        """
        backend = await asyncio.to_thread(self._backend)
        status = await asyncio.to_thread(backend.stop, self._handle(), grace_seconds=self.grace_seconds)
        self.log.info("%s was stopped: %s", self.handle["name"], status.state)

    def _backend(self) -> TrainingBackend:
        from holdfast.hooks.runtime import HoldfastHook

        return HoldfastHook(self.topology_path).runtime.backend(self.site)

    def _handle(self) -> JobHandle:
        from holdfast.engine.compute import JobHandle

        return JobHandle(**self.handle)
