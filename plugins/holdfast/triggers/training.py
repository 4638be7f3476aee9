"""Waits for a training job outside the worker: the triggerer asks its backend, without blocking the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from holdfast.errors import ConfigError, HoldfastError
from holdfast.triggers.ending import ended_by_a_person
from holdfast.triggers.gauges import tell

if TYPE_CHECKING:
    from holdfast.engine.compute import JobHandle, JobStatus, TrainingBackend
    from holdfast.engine.runtime import Runtime


class TrainingJobTrigger(BaseTrigger):
    """Fires once, when the job has ended, or when waiting for it is over: see `JobWatch`.

    A backend that cannot be asked is asked again: "cannot reach" is not "ended". When the group has moved on meanwhile,
    the job's epoch is over, and the task looks for the run where it went. A restart of the triggerer resumes from the
    arguments; the job does not notice.

    :param site: the site whose backend has the job.
    :param handle: the `JobHandle` as a mapping.
    :param group: the protection group; with ``epoch``, so that the register can be asked whether it moved on.
    :param epoch: the job's own.
    :param move_on_at: RFC 3339; when a job that still waits for a machine has waited long enough.
    :param poll_seconds: how often the backend is asked.
    :param grace_seconds: how long a stopped job may take to write a last checkpoint.
    :param stop_on_kill: stop the run's job, in whatever epoch it is by then, when a person ends the task.
    :param topology_path: the topology file; by default the one the configuration names.
    """

    def __init__(
        self,
        *,
        site: str,
        handle: Mapping[str, Any],
        group: str | None = None,
        epoch: int | None = None,
        move_on_at: str | None = None,
        poll_seconds: float = 2.0,
        grace_seconds: float = 10.0,
        stop_on_kill: bool = False,
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
        self.group = group
        self.epoch = epoch
        self.move_on_at = move_on_at
        self.poll_seconds = poll_seconds
        self.grace_seconds = grace_seconds
        self.stop_on_kill = stop_on_kill
        self.topology_path = topology_path

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path and the arguments that make this trigger again."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "site": self.site,
            "handle": self.handle,
            "group": self.group,
            "epoch": self.epoch,
            "move_on_at": self.move_on_at,
            "poll_seconds": self.poll_seconds,
            "grace_seconds": self.grace_seconds,
            "stop_on_kill": self.stop_on_kill,
            "topology_path": self.topology_path,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event with the fields of the job's last status."""
        from holdfast.engine.compute import ENDED

        runtime = await asyncio.to_thread(self._runtime)
        look = await asyncio.to_thread(self._looking, runtime)
        while True:
            found = await asyncio.to_thread(look)
            if found is None or found.state not in ENDED:
                await asyncio.sleep(self.poll_seconds)
            if found is not None:
                yield TriggerEvent(event_of(found))
                return

    async def on_kill(self) -> None:
        """Let the job write a checkpoint and leave, if that was asked for and a person ended the task.

        Airflow calls this also for a task that was cleared, and in a triggerer whose triggers another one took over:
        the task goes on then, and with it the job.
        """
        if not self.stop_on_kill or not await ended_by_a_person(self):
            self.log.info("The trigger ends and %s goes on", self.handle["name"])
            return
        await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        """Stop the run's job in its newest epoch, and the one this trigger waits for."""
        runtime = self._runtime()
        run, grace = self.handle["name"].rpartition(".e")[0], self.grace_seconds
        if self.group is not None:
            from holdfast.engine.pipeline.stopping import stop_run

            try:
                found = stop_run(runtime, self.group, run, grace_seconds=grace)
            except HoldfastError as error:
                self.log.warning("Whether run %s goes on in a newer epoch is not known: %s", run, error)
            else:
                self.log.info("%s at %s: %s", found.handle.name, found.site, found.status.state)
                if (found.site, found.handle.name) == (self.site, self.handle["name"]):
                    return
        status = runtime.backend(self.site).stop(self._handle(), grace_seconds=grace)
        self.log.info("%s was stopped: %s", self.handle["name"], status.state)

    def _looking(self, runtime: Runtime) -> Callable[[], JobStatus | None]:
        from holdfast.engine.recovery.waiting import look

        backend, handle = runtime.backend(self.site), self._handle()
        return partial(
            look,
            backend,
            handle,
            seen=partial(self._seen, backend, handle),
            unanswered=self._unanswered,
            over=self._over(runtime),
        )

    def _seen(self, backend: TrainingBackend, handle: JobHandle, status: JobStatus) -> None:
        """Log a status, and set Airflow's gauges."""
        self.log.info(
            "%s at %s: %s, step %s of %s", handle.name, self.site, status.state, status.step, status.total_steps
        )
        with contextlib.suppress(HoldfastError):  # a heartbeat that cannot be read now leaves them as they are
            if (heartbeat := backend.heartbeat(handle)) is not None:
                tell(heartbeat, run=handle.name.rpartition(".e")[0], site=self.site)

    def _unanswered(self, error: HoldfastError) -> None:
        self.log.warning("The backend of %s cannot be asked, asking again: %s", self.site, error)

    def _runtime(self) -> Runtime:
        from holdfast.hooks.runtime import HoldfastHook

        return HoldfastHook(self.topology_path).runtime

    def _over(self, runtime: Runtime) -> Callable[[JobStatus | None], JobStatus | None]:
        from holdfast.engine.recovery.waiting import JobWatch

        if self.group is None:
            return lambda _: None
        moment = None if self.move_on_at is None else datetime.fromisoformat(self.move_on_at)
        return JobWatch(runtime, self.group, epoch=self.epoch, move_on_at=moment).over

    def _handle(self) -> JobHandle:
        from holdfast.engine.compute import JobHandle

        return JobHandle(**self.handle)


class NoMachineTrigger(BaseTrigger):
    """Fires when the run is to be asked for again: no placement had a machine, or something could not be asked.

    :param ask_again_at: RFC 3339.
    :param poll_seconds: how often the clock is looked at.
    :param ended: the event of the job that ended, where only what follows from it is not known yet.
    """

    def __init__(self, *, ask_again_at: str, poll_seconds: float = 2.0, ended: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.ask_again_at = ask_again_at
        self.poll_seconds = poll_seconds
        self.ended = None if ended is None else dict(ended)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class path and the arguments that make this trigger again."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "ask_again_at": self.ask_again_at,
            "poll_seconds": self.poll_seconds,
            "ended": self.ended,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event, without a job's state unless one ended."""
        moment = datetime.fromisoformat(self.ask_again_at)
        while datetime.now(UTC) < moment:
            await asyncio.sleep(self.poll_seconds)
        yield TriggerEvent(self.ended or {"state": None, "step": None, "total_steps": None, "detail": None})


def event_of(status: JobStatus) -> dict[str, Any]:
    """A job's status as an event has it."""
    return {
        "state": str(status.state),
        "step": status.step,
        "total_steps": status.total_steps,
        "detail": status.detail,
    }
