"""The training side: save in the background, replicate straight after, resume where the orchestrator elected.

::

    checkpointer = Checkpointer.from_environment()
    resumed = checkpointer.resume(adapter)
    with checkpointer:
        for step in range(resumed.step + 1 if resumed else 1, total + 1):
            train_one_step(step)
            checkpointer.step(step, adapter, loss=loss)
        last = checkpointer.finish(adapter)

`step` never waits for a store: it copies the state when a checkpoint is due and returns.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from holdfast.clock import Clock, SystemClock
from holdfast.engine.checkpoint.after_commit import AfterCommit
from holdfast.engine.checkpoint.buffers import require_memory
from holdfast.engine.checkpoint.capturing import LiveCapturer, SaveMode, save_mode
from holdfast.engine.checkpoint.commit import require_permission
from holdfast.engine.checkpoint.compression import BlobEncoder, Compression
from holdfast.engine.checkpoint.elect import Election, elect
from holdfast.engine.checkpoint.errors import CheckpointError, StopRequested
from holdfast.engine.checkpoint.expected import expected_facts
from holdfast.engine.checkpoint.facts import checkpoint_facts, resume_facts
from holdfast.engine.checkpoint.fingerprint import environment_fingerprint
from holdfast.engine.checkpoint.format import CheckpointManifest
from holdfast.engine.checkpoint.guard import AlwaysGranted, Permission, WriteGuard
from holdfast.engine.checkpoint.heartbeat import Heartbeat, HeartbeatObject, stamp
from holdfast.engine.checkpoint.housekeeping import Retention
from holdfast.engine.checkpoint.live import LiveAdapter, fingerprint_of
from holdfast.engine.checkpoint.outcome import Finished, Resumed, final_state
from holdfast.engine.checkpoint.pacing import IntervalPolicy, Pace, check_interval
from holdfast.engine.checkpoint.preemption import PreemptionWatch
from holdfast.engine.checkpoint.restore import load_state, spare_memory_bytes
from holdfast.engine.checkpoint.state import Adapter, TrainingState, finite
from holdfast.engine.checkpoint.stop_signal import StopSignal
from holdfast.engine.checkpoint.verify import KeptBlobs, damage
from holdfast.engine.checkpoint.writer import Capture, CheckpointWriter, Origin
from holdfast.engine.objectstore.interface import ObjectStore

#: Airflow kills five seconds after it asks; a save that is not durable by then is left to the last periodic one.
STOP_SAVE_SECONDS = 3.5

StateSource = Adapter | LiveAdapter | TrainingState | Callable[[], TrainingState]


class Checkpointer:
    """Checkpoints one run in one epoch at one site.

    Args:
        store: the site's own bucket.
        run, epoch, site: what this process was told; the epoch is in every key it writes.
        every_steps: a checkpoint each so many steps; None: only by ``every_seconds``.
        every_seconds: a checkpoint once so many seconds have passed since the one before.
        interval: plan the interval, and plan it anew after every save from what this run measures; the plan is in the
            heartbeat. Beside it the other two still count when they are given.
        retention: what to keep of this run, here and at every standby; None: everything.
        mode: how long training waits for a save of a live adapter; see `capturing`. Other adapters hand over finished
            bytes, which is ``copy``, or ``blocking``.
        memory_bytes: bound of what saving holds: twice the state (one in flight, one waiting), and with compression one
            encoded blob beside them. A larger state is refused before anything of it is written. None: no bound.
        compression: how blobs are stored, a policy's name or a `Compression`; encoded in the writer's thread.
        self_test: find out whether the mode fits the training loop; slow. See `TornState`.
        preemption: ``aws``, ``gcp`` or ``azure``: watch this machine's metadata endpoint for a notice that it is taken
            away, which is then a request to stop; None: do not.
        total_steps: shown in the heartbeat.
        guard: asked immediately before each manifest is committed.
        replicas: the standby sites' buckets by site name.
        keep_every: of the checkpoints that a slow replica leaves out, each so many-th is kept.
        dataset_snapshot: recorded in every manifest.
        fingerprint: of this environment; by default the machine, its instruction sets and Python.
        heartbeat: the file, or the object, to keep current; None: none.
        heartbeat_seconds: the longest time between two writes of it.
        clock: wall and monotonic time.
        resume_from: the digest the orchestrator elected; going on from another line is told, and no error.
    """

    def __init__(
        self,
        store: ObjectStore,
        run: str,
        *,
        epoch: int,
        site: str,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        interval: IntervalPolicy | None = None,
        retention: Retention | None = None,
        mode: SaveMode | str = SaveMode.COPY,
        memory_bytes: int | None = None,
        compression: Compression | str = "none",
        self_test: bool = False,
        preemption: str | None = None,
        total_steps: int | None = None,
        guard: WriteGuard | None = None,
        replicas: Mapping[str, ObjectStore] | None = None,
        keep_every: int = 10,
        dataset_snapshot: str | None = None,
        fingerprint: Mapping[str, str] | None = None,
        heartbeat: Path | HeartbeatObject | None = None,
        heartbeat_seconds: float = 1.0,
        retry_seconds: float = 0.5,
        clock: Clock | None = None,
        notes: Mapping[str, Any] | None = None,
        resume_from: str | None = None,
    ) -> None:
        check_interval(every_steps, every_seconds, interval)
        self.store = store
        self.run = run
        self.epoch = epoch
        self.site = site
        self.every_steps = every_steps
        self.every_seconds = every_seconds
        self.mode = save_mode(mode)
        self.guard = guard or AlwaysGranted()
        self.fingerprint = dict(fingerprint if fingerprint is not None else environment_fingerprint())
        self._clock = clock or SystemClock()
        self._dataset_snapshot = dataset_snapshot
        self._retry_seconds, self._resume_from = retry_seconds, resume_from
        self._heartbeat = Heartbeat(
            heartbeat,
            self._clock,
            interval_seconds=heartbeat_seconds,
            run=run,
            epoch=epoch,
            site=site,
            total_steps=total_steps,
            step=0,
            state="starting",
            **(notes or {}),
        )
        self._pace = Pace(interval, standbys=len(replicas or {}), began=self._clock.monotonic()) if interval else None
        self._after = AfterCommit(
            store,
            run,
            epoch=epoch,
            site=site,
            standbys=replicas or {},
            guard=self.guard,
            clock=self._clock,
            retention=retention,
            pace=self._pace,
            forget=self._forget,
            urgent=lambda: self._stop.is_set() or self._finishing,
            keep_every=keep_every,
            retry_seconds=retry_seconds,
        )
        self._parent: CheckpointManifest | None = None
        self._writer: CheckpointWriter | None = None
        self._stop = threading.Event()
        watch = PreemptionWatch(preemption, self._taken_away) if preemption else None
        self._signal = StopSignal(self.request_stop, watch)
        self._last_step = 0
        self._last_step_at: datetime | None = None
        self._saved_step = 0
        self._saved_at = self._clock.monotonic()
        self._memory_bytes = memory_bytes
        self._encoder = BlobEncoder(compression if isinstance(compression, Compression) else Compression(compression))
        self._self_test = self_test
        self._live: LiveCapturer | None = None
        self._stepped_at = self._saved_at
        self._to_warm: LiveAdapter | None = None
        self._warmed = self._finishing = False
        self._metrics: dict[int, dict[str, float]] = {}

    @classmethod
    def from_environment(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        mode: SaveMode | str = SaveMode.COPY,
        self_test: bool = False,
    ) -> Checkpointer:
        """The checkpointer of a process that a `TrainingBackend` started, saving in this mode.

        Args:
            self_test: see the class; ``HOLDFAST_SELF_TEST=1`` switches it on too.

        Raises:
            EnvironmentIncomplete: the process was not started with the contract's variables.
            ConfigError: the topology or a connection is wrong.
        """
        # The composition root stands above this room; looked up by name, so the arrow still points down.
        training = importlib.import_module("holdfast.engine.training").Training
        named = os.environ if environ is None else environ
        checkpointer = training.from_environment(named, mode=mode, self_test=self_test).checkpointer
        assert isinstance(checkpointer, cls)
        return checkpointer

    # -- resume -------------------------------------------------------------------------------------------------

    def resume(
        self, adapter: Adapter | LiveAdapter | None = None, *, fingerprint: Mapping[str, str] | None = None
    ) -> Resumed | None:
        """Load what this epoch goes on from, or None to start from scratch. Call it before entering the context.

        The epoch's fork record says what the orchestrator elected; a job restarted within its epoch goes on from the
        epoch's own newest checkpoint. One that does not verify is passed over.

        Args:
            adapter: gets the state, when given.
            fingerprint: what the framework adds to this environment's fingerprint; an adapter's state has it too.

        Raises:
            EpochUnknownHere: epoch > 1 and nobody wrote what it forked from.
            Fenced: the epoch is over already.
        """
        if self.guard.permission() is Permission.FENCED:
            require_permission(self.guard, where=self.run, epoch=self.epoch)
        extra = fingerprint if fingerprint is not None else fingerprint_of(adapter)
        kept = KeptBlobs(spare_memory_bytes() if self._memory_bytes is None else self._memory_bytes)
        election = elect(
            self.store,
            self.run,
            epoch=self.epoch,
            site=self.site,
            fingerprint={**self.fingerprint, **extra},
            damage_of=partial(damage, kept=kept),
        )
        if election.manifest is None:
            self._note_resume(election)
            return None
        state = load_state(self.store, election.manifest, kept=kept)
        if adapter is not None:
            adapter.load_state(state)
            kept.clear()  # what the adapter did not ask for
            self._to_warm = adapter if isinstance(adapter, LiveAdapter) else None
        self._parent = election.manifest
        self._last_step = self._saved_step = election.step
        self._note_resume(election)
        return Resumed(election.step, state, election.manifest, election.resume, election.passed_over)

    def _note_resume(self, election: Election) -> None:
        expected = expected_facts(self.store, election, self._resume_from)
        self._heartbeat.write(step=election.step, resumed={**resume_facts(election), "expected": expected})

    @property
    def standbys(self) -> frozenset[str]:
        """The sites this process replicates to."""
        return self._after.standbys

    # -- life ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._writer = self._new_writer(
            Origin(self.run, self.epoch, self.site, self._dataset_snapshot, self.fingerprint)
        )
        self._live = LiveCapturer(
            self.mode,
            submit=self._hand_over,
            reclaim=self._writer.reclaim,
            clock=self._clock,
            memory_bytes=self._memory_bytes,
            encoded=self._encoder.compression.is_on,
            self_test=self._self_test,
        )
        if self._to_warm is not None:
            self._warm(self._to_warm)
        self._writer.start()
        self._saved_at = self._clock.monotonic()
        self._after.start(self._parent)
        self._heartbeat.start()
        self._signal.install()
        return self

    def _new_writer(self, origin: Origin) -> CheckpointWriter:
        return CheckpointWriter(
            self.store,
            origin,
            guard=self.guard,
            clock=self._clock,
            parent=self._parent,
            committed=self._committed,
            rested=self._after.keep_house,
            retry_seconds=self._retry_seconds,
            encoder=self._encoder,
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signal.restore()
        if self._live is not None:
            self._live.close()
        if self._writer is not None:
            self._writer.close()
        self._after.close()
        self._heartbeat.close(state=final_state(error), detail=None if error is None else str(error), **self._facts())

    def request_stop(self) -> None:
        """Save at the next step, then raise StopRequested there; what SIGTERM does."""
        self._stop.set()

    def _taken_away(self, notice: str) -> None:
        self.request_stop()
        self._heartbeat.note(preemption=notice)

    # -- steps --------------------------------------------------------------------------------------------------

    def step(
        self,
        step: int,
        state: StateSource,
        *,
        loss: float | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> bool:
        """Say that a step is done; takes a checkpoint when one is due, was requested, or the job must leave.

        Args:
            step: counted from 1.
            state: what to save; asked only when a checkpoint is taken, and copied before this returns.
            loss: for the heartbeat, and for retention: a checkpoint's state has it under ``metrics``, as it has these.
            metrics: further figures of this step that retention may choose the best by.

        Returns:
            Whether a checkpoint was taken. It is durable later: see `status`.

        Raises:
            Fenced: this epoch is over; leave with its exit code.
            StateTooLarge: the state needs more than ``memory_bytes``; nothing of it was written.
            StopRequested: asked to leave; the state was saved if the store took it within STOP_SAVE_SECONDS.
            CheckpointFailed: the site's store refuses for a reason that waiting does not cure.
        """
        writer = self._ready()
        self._stepped(step)
        stopping = self._stop.is_set()
        due = self._is_due(step) or writer.wants_another
        if taken := (due or stopping or self._heartbeat.checkpoint_requested()):
            self._metrics[step] = finite({"loss": loss, **(metrics or {})})
            self._capture(step, state)
            if self.mode is SaveMode.BLOCKING:
                self._wait_durable(step)
            self._count_stall()
        elif isinstance(state, LiveAdapter):
            self._warm(state)
        self._tell(step, loss)
        if stopping:
            self.before_update()
            durable = writer.wait(step, STOP_SAVE_SECONDS)
            raise StopRequested(
                "asked to leave",
                where=self.run,
                found=f"step {step} is saved"
                if durable
                else f"step {step} could not be saved in time; step {self._durable_step()} is",
            )
        return taken

    def finish(self, state: StateSource, *, save_seconds: float = 120.0, replica_seconds: float = 10.0) -> Finished:
        """Save the last step, wait until it is durable, and for a while until the replicas have it.

        Raises:
            Fenced: this epoch is over.
            CheckpointError: it is not durable after ``save_seconds``.
        """
        writer, self._finishing = self._ready(), True
        if self._saved_step != self._last_step:
            self._capture(self._last_step, state)
        self.before_update()
        self._heartbeat.write(state="finishing", **self._facts())
        if not writer.wait(self._last_step, save_seconds):
            self._ready()
            raise CheckpointError(
                "the last checkpoint is not durable",
                where=self.run,
                expected=f"step {self._last_step} within {save_seconds:g} s",
                found=writer.status().error or "nothing",
                fix="Submit the job again when the store answers; it goes on from the newest",
            )
        manifest = writer.last
        assert manifest is not None
        replicated = self._after.wait(manifest.step, replica_seconds)
        self._heartbeat.write(state="finishing", model_digest=manifest.model_digest, **self._facts())
        return Finished(manifest, replicated)

    def before_update(self) -> None:
        """Wait for a copy under way; call it before anything changes the weights outside ``optimizer.step``.

        Raises:
            TornState: the self-test found that something did already.
        """
        if self._live is not None:
            self._live.wait()

    def require_permission(self, what: str) -> None:
        """Ask the guard before something else is published for this epoch. Raises Fenced, WritesHeld."""
        require_permission(self.guard, where=what, epoch=self.epoch)

    def note(self, **facts: Any) -> None:
        """Show more in the heartbeat."""
        self._heartbeat.note(**facts)

    def status(self) -> dict[str, Any]:
        """The heartbeat's facts, e.g. for a log line."""
        return {**self._heartbeat.facts, **self._facts()}

    def _ready(self) -> CheckpointWriter:
        writer = self._writer
        if writer is None:
            raise CheckpointError(
                "the checkpointer is not running", where=self.run, fix="Use it as `with checkpointer:`"
            )
        if writer.failure is not None:
            raise writer.failure
        if self.guard.permission() is Permission.FENCED:
            require_permission(self.guard, where=self.run, epoch=self.epoch)
        return writer

    def _stepped(self, step: int) -> None:
        self._last_step, self._last_step_at = step, self._clock.now()
        self._stepped_at = self._clock.monotonic()
        if self._pace is not None:
            self._pace.stepped(step, self._stepped_at)

    def _is_due(self, step: int) -> bool:
        if self.every_steps is not None and step % self.every_steps == 0:
            return True
        if self._pace is not None and self._pace.is_due(step, saved_step=self._saved_step, now=self._clock.monotonic()):
            return True
        return self.every_seconds is not None and self._clock.monotonic() - self._saved_at >= self.every_seconds

    def _wait_durable(self, step: int) -> None:
        """Until it is, training has to end, or another step is to be saved instead.

        A store that is down holds training up: that is what blocking means.
        """
        while not (writer := self._ready()).wait(step, 1.0):
            if self._stop.is_set() or writer.wants_another:
                return

    def _capture(self, step: int, source: StateSource) -> None:
        assert self._writer is not None
        assert self._live is not None
        self._writer.wants_another = False
        if isinstance(source, LiveAdapter):
            self._live.capture(step, source)
        else:
            self._submit(step, source)
        self._saved_step, self._saved_at = step, self._clock.monotonic()

    def _submit(self, step: int, source: Adapter | TrainingState | Callable[[], TrainingState]) -> None:
        assert self._writer is not None
        if isinstance(source, Adapter):
            source = source.state
        state = source if isinstance(source, TrainingState) else source()
        sizes = [memoryview(data).nbytes for data in state.blobs.values()] if self._memory_bytes is not None else []
        require_memory(sizes, self._memory_bytes, encoded=self._encoder.compression.is_on)
        self._hand_over(Capture(step, state.frozen(), self._clock.now()))

    def _hand_over(self, capture: Capture) -> None:
        assert self._writer is not None
        self._writer.submit(capture.with_metrics(self._metrics.pop(capture.step, {})))

    def _committed(self, manifest: CheckpointManifest, blobs: Mapping[str, bytes]) -> None:
        """In the writer's thread, after each commit."""
        assert self._writer is not None
        self._after.offer(manifest, blobs, self._writer.status())
        self._heartbeat.note(**self._facts())

    def _forget(self) -> None:
        if self._writer is not None:
            self._writer.forget()

    def _warm(self, adapter: LiveAdapter) -> None:
        """Make the buffers in the background, once; a first save at step one is there before it."""
        if self._live is not None and not self._warmed:
            self._warmed = True
            self._live.warm(adapter)

    def _count_stall(self) -> None:
        """Training stood still for this save since the step was done; a copy that goes on is counted when it ends."""
        if self._pace is None:
            return
        now = self._clock.monotonic()
        stalled = now - self._stepped_at
        if self.mode is SaveMode.OVERLAP and self._live is not None and self._live.stall_seconds is not None:
            stalled = self._live.stall_seconds
        self._pace.stalled(stalled)
        self._pace.resumed(now)

    def _tell(self, step: int, loss: float | None) -> None:
        at = stamp(self._last_step_at or self._clock.now())
        self._heartbeat.note(step=step, loss=loss, state="training", step_at=at, **self._facts())

    def _durable_step(self) -> int:
        last = self._writer.last if self._writer else self._parent
        return last.step if last else 0

    def _facts(self) -> dict[str, Any]:
        if self._writer is None:
            return {}
        last, writer = self._writer.last, self._writer.status()
        return {
            "checkpoint": None if last is None else checkpoint_facts(last),
            **self._after.facts(trained_step=self._last_step, trained_at=self._last_step_at),
            "saving": {
                **asdict(writer),
                "mode": str(self.mode),
                "stall_seconds": self._live and self._live.stall_seconds,
            },
            "permission": str(self.guard.permission()),
        }
