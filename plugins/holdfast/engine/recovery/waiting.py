"""Wait for a training job, and for the run it belongs to: one set of rules for whoever waits.

The command line, a task in its worker and a drill wait in this process and use all of it. A deferred task waits in the
triggerer, so there `Waiter` hands over instead of waiting, and `look` and `JobWatch` are the trigger's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Generic, TypeVar

from holdfast.clock import Clock
from holdfast.engine.compute import ENDED, JobHandle, JobState, JobStatus, TrainingBackend
from holdfast.engine.config.models import NoCapacityPolicy
from holdfast.engine.recovery.interface import Rooms
from holdfast.engine.recovery.placing import waits_too_long
from holdfast.engine.recovery.start_training import NoMachine
from holdfast.errors import HoldfastError

#: Between two questions to the register: each reads a majority of the sites.
_EPOCH_SECONDS = 10.0
#: What cannot be answered now is asked again after so many pauses between two looks: a start asks several services.
_AGAIN_POLLS = 5

_Answer = TypeVar("_Answer")
_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


class JobWatch:
    """Says when to stop waiting for a job that has not ended.

    It waited for a machine as long as its placement allows; or a plan took its group to another epoch, so nothing it
    does counts. A job that is cut off from every site does not learn that itself, and the service of a lost cloud
    cannot be asked: without this, the waiting would last until the cloud is back. That a backend does not answer is by
    itself no reason: "cannot reach" is not "ended".

    Args:
        group: whose register is asked, at most every ten seconds.
        epoch: the job's own; None: not known, and nothing is asked of the register.
        move_on_at: when a job that still waits for a machine has waited long enough; None: it may wait.
    """

    def __init__(self, rooms: Rooms, group: str, *, epoch: int | None, move_on_at: datetime | None) -> None:
        self._rooms, self._group, self._epoch, self._move_on_at = rooms, group, epoch, move_on_at
        self._next = rooms.clock.monotonic() + _EPOCH_SECONDS

    def over(self, status: JobStatus | None) -> JobStatus | None:
        """What ends the waiting: the job as it stands, or as lost with the epoch that followed; None: nothing does.

        Args:
            status: the last one seen, which was no end; None: its backend did not answer.

        Raises:
            HoldfastError: one that asking again does not mend, e.g. the topology has no such group any more.
        """
        if status is not None and waits_too_long(status, self._move_on_at, now=self._rooms.clock.now()):
            return status
        now = self._rooms.clock.monotonic()
        if self._epoch is None or now < self._next:
            return None
        self._next = now + _EPOCH_SECONDS
        self._rooms.topology.group(self._group)
        try:
            state = self._rooms.authority(self._group).read(self._group)
        except HoldfastError as error:
            if not error.transient:
                raise
            return None
        if state is None or state.epoch <= self._epoch:
            return None
        detail = f"its epoch {self._epoch} is over: epoch {state.epoch} is at {state.active_site}"
        return JobStatus(JobState.LOST, detail=detail)


def look(
    backend: TrainingBackend,
    handle: JobHandle,
    *,
    seen: Callable[[JobStatus], None],
    unanswered: Callable[[HoldfastError], None],
    over: Callable[[JobStatus | None], JobStatus | None],
) -> JobStatus | None:
    """One look at a job; see `wait_for_job`.

    Returns:
        how it ended, or what `over` said; None: look again after a pause. Whoever gets one that is no end pauses as
        well before he asks for the run again, or he might do so without end.
    """
    status: JobStatus | None = None
    try:
        status = backend.status(handle)
    except HoldfastError as error:
        if not error.transient:
            raise
        unanswered(error)
    else:
        seen(status)
        if status.state in ENDED:
            return status
    return over(status)


def wait_for_job(
    backend: TrainingBackend,
    handle: JobHandle,
    *,
    pause: Callable[[], bool],
    seen: Callable[[JobStatus], None],
    unanswered: Callable[[HoldfastError], None],
    over: Callable[[JobStatus | None], JobStatus | None],
) -> JobStatus | None:
    """Ask until the job has ended. A backend that cannot be asked is asked again: that is no end.

    Args:
        pause: called between two looks; True gives the waiting up, and leaves the job alone.
        seen: called with every status.
        unanswered: called with every error that asking again may mend.
        over: called with every status that is no end, None for an error; what it says ends the waiting, see
            `JobWatch`.

    Returns:
        how it ended, or stood when the waiting was over; ``None``: the waiting was given up by the pause.

    Raises:
        HoldfastError: one that asking again does not mend, e.g. UnknownHandle.
    """
    while True:
        found = look(backend, handle, seen=seen, unanswered=unanswered, over=over)
        if found is not None and found.state in ENDED:
            return found
        if pause():
            return None
        if found is not None:
            return found


@dataclass(frozen=True, slots=True)
class AskAgain:
    """Nothing is to be waited for now.

    Args:
        at: when to ask again.
        why: `NoMachine`, or an error that asking again may mend.
        ended: how the last job ended, where only what follows from it is not known yet.
    """

    at: datetime
    why: HoldfastError
    ended: JobStatus | None = None


@dataclass
class Waiter(Generic[_Job, _Result]):
    """Waits for a run: starts it, waits for its job, and starts it again as long as a machine is what it lacks.

    What cannot be answered at first is the caller's to try again. Once the run has begun, or waits for a machine,
    nothing that asking again may mend ends the waiting: not a service or a store that is away, not a plan under way,
    not a register without a majority.

    Args:
        start: the run's job, started or found.
        wait: how that job ended, see `wait_for_job`; None: the waiting is given up.
        goes_on: whether the run is to be started again after this.
        finish: what becomes of a run that does not go on.
        pause: waits until then; True gives the waiting up.
        poll_seconds: between two looks.
        final: errors by which `finish` says how the run ended, though they are transient.
        began: whether the run had begun before this.
    """

    clock: Clock
    start: Callable[[], _Job]
    wait: Callable[[_Job], JobStatus | None]
    goes_on: Callable[[JobStatus], bool]
    finish: Callable[[JobStatus], _Result]
    pause: Callable[[AskAgain], bool]
    poll_seconds: float
    final: tuple[type[HoldfastError], ...] = ()
    began: bool = False
    job: _Job | None = None

    def run(self, ended: JobStatus | None = None) -> _Result | None:
        """Wait until the run does not go on.

        Args:
            ended: how the job ended, or stood when its waiting was over, where somebody else waited for it.

        Returns:
            what `finish` made of it; None: the waiting was given up. ``job`` is the last one then; None: nothing runs.

        Raises:
            HoldfastError: one that asking again does not mend, or of the first start.
        """
        while True:
            if ended is None:
                found = self._ask(self.start)
                if isinstance(found, AskAgain):
                    self.job = None if isinstance(found.why, NoMachine) else self.job
                    if self.pause(found):
                        return None
                    continue
                self.job = found
                if (ended := self.wait(found)) is None:
                    return None
            after = self._ask(partial(self._after, ended))
            if not isinstance(after, AskAgain):
                if after is not None:
                    return after[0]
                ended = None
            elif self.pause(replace(after, ended=ended)):
                return None

    def _after(self, ended: JobStatus) -> tuple[_Result] | None:
        """What becomes of the run; None: it goes on."""
        return None if self.goes_on(ended) else (self.finish(ended),)

    def _ask(self, question: Callable[[], _Answer]) -> _Answer | AskAgain:
        try:
            answer = question()
        except NoMachine as none:
            if none.policy is not NoCapacityPolicy.WAIT or none.ask_again_at is None:
                raise
            self.began = True
            return AskAgain(none.ask_again_at, none)
        except HoldfastError as error:
            if not error.transient or not self.began or isinstance(error, self.final):
                raise
            return AskAgain(self.clock.now() + timedelta(seconds=_AGAIN_POLLS * self.poll_seconds), error)
        self.began = True
        return answer
